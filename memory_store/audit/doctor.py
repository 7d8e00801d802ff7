"""The store's self-audit: everything is recomputed from the shards' bytes and the rows."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from memory_store.audit import recovery
from memory_store.audit.field_audit import audit_fields
from memory_store.audit.finding import Finding
from memory_store.audit.page_audit import audit_pages
from memory_store.audit.row_audit import audit_rows, audit_texts
from memory_store.audit.shard_audit import audit_shards
from memory_store.catalogue import collections, memories
from memory_store.catalogue.collections import CollectionRow
from memory_store.catalogue.database import Connection
from memory_store.catalogue.intake import write_again
from memory_store.errors import CorruptionError, IncompatibleFormatError
from memory_store.files import remove
from memory_store.index.index_file import digest_of, load_index_file
from memory_store.index.live_index import LiveIndex
from memory_store.jobs import sqlite_jobs
from memory_store.jobs.queue import SUPERSEDED
from memory_store.records import JobStatus, Problem
from memory_store.storage import Storage

TEXT_LOST = ("text_lost", "the text of this document is gone; write it again")


def check(storage: Storage, indexes: Mapping[int, LiveIndex], *, repair: bool) -> list[Problem]:
    """See :meth:`memory_store.store.MemoryStore.check`."""
    problems: list[Problem] = []
    for audit in (audit_pages, audit_rows):
        problems += [finding.settle(repair=repair) for finding in audit(storage)]
        if not all(problem.repaired for problem in problems):
            return problems  # what follows would take damaged rows for the truth
    for audit in (
        audit_texts,
        audit_fields,
        audit_shards,
        _audit_memories,
        _audit_jobs,
        _audit_counters,
        _audit_leftovers,
        partial(_audit_indexes, indexes=indexes),
    ):
        problems += [finding.settle(repair=repair) for finding in audit(storage)]
    return problems


def _audit_memories(storage: Storage) -> list[Finding]:
    """Live memories that should not be: doubles, and those of deleted documents."""
    with storage.catalogue.read() as connection:
        doubles = connection.execute(
            "SELECT collection_id, memory_id FROM (SELECT m.collection_id, m.memory_id,"
            "  row_number() OVER (PARTITION BY d.collection_id, d.document_id, m.passage"
            "   ORDER BY m.added_seq DESC, m.memory_id DESC) AS place"
            "  FROM memories m JOIN documents d USING (document_key)"
            "  WHERE m.removed_seq IS NULL) WHERE place > 1"
        ).fetchall()
        undead = connection.execute(
            "SELECT m.collection_id, m.memory_id FROM memories m JOIN documents d"
            " USING (document_key) WHERE m.removed_seq IS NULL AND NOT EXISTS"
            " (SELECT 1 FROM documents c WHERE c.collection_id = d.collection_id"
            "  AND c.document_id = d.document_id AND c.is_current = 1)"
        ).fetchall()
    return [
        Finding(
            Problem(code, f"memory {memory_id} {what}", "remove it"),
            partial(_remove_memory, storage, collection_id, memory_id),
        )
        for code, what, rows in (
            ("memory_doubled", "stands for a passage another memory stands for", doubles),
            ("memory_undead", "belongs to a deleted document", undead),
        )
        for collection_id, memory_id in rows
    ]


def _remove_memory(storage: Storage, collection_id: int, memory_id: int) -> bool:
    with storage.catalogue.write() as connection:
        seq = collections.next_seq(connection, collection_id)
        memories.tombstone_ids(connection, collection_id, [memory_id], seq)
    return True


def _audit_jobs(storage: Storage) -> list[Finding]:
    """Jobs in impossible states, and documents nobody remembers or will remember."""
    active = (
        "SELECT j.job_id FROM jobs j LEFT JOIN documents d"
        " USING (collection_id, document_id, version)"
        " WHERE j.status IN ('queued', 'running') AND "
    )
    with storage.catalogue.read() as connection:
        outdated = connection.execute(f"{active} coalesce(d.is_current, 0) = 0").fetchall()
        textless = connection.execute(
            f"{active} d.is_current = 1 AND NOT EXISTS"
            " (SELECT 1 FROM texts t WHERE t.document_key = d.document_key)"
        ).fetchall()
        unleased = connection.execute(
            "SELECT job_id FROM jobs WHERE status = 'running'"
            " AND (lease_owner IS NULL OR lease_expires_at IS NULL)"
        ).fetchall()
        lost = connection.execute(
            "SELECT d.collection_id, d.document_id FROM documents d WHERE d.is_current = 1"
            " AND NOT EXISTS (SELECT 1 FROM memories m WHERE m.document_key = d.document_key"
            "  AND m.removed_seq IS NULL) AND NOT EXISTS (SELECT 1 FROM jobs j"
            "  WHERE j.collection_id = d.collection_id AND j.document_id = d.document_id"
            "  AND j.version = d.version)"
        ).fetchall()
    findings = [
        Finding(
            Problem(code, f"job {job_id} {what}", repair),
            partial(_finish_job, storage, job_id, status, error),
        )
        for code, what, repair, status, error, rows in (
            (
                "job_outdated",
                "is about a replaced or deleted document",
                "cancel it",
                JobStatus.CANCELLED,
                SUPERSEDED,
                outdated,
            ),
            (
                "job_without_text",
                "has no text to work on",
                "fail it",
                JobStatus.FAILED,
                TEXT_LOST,
                textless,
            ),
        )
        for (job_id,) in rows
    ]
    findings += [
        Finding(
            Problem("job_without_lease", f"job {job_id} runs without a lease", "queue it again"),
            partial(_queue_again, storage, job_id),
        )
        for (job_id,) in unleased
    ]
    findings += [
        Finding(
            Problem(
                "document_lost",
                f"document {document_id!r} has neither a memory nor a job",
                "write it again from its text",
            ),
            partial(_write_again, storage, collection_id, document_id),
        )
        for collection_id, document_id in lost
    ]
    return findings


def _finish_job(storage: Storage, job_id: str, status: JobStatus, error: tuple[str, str]) -> bool:
    with storage.catalogue.write() as connection:
        sqlite_jobs.finish(connection, [job_id], status, storage.clock(), error=error)
    return True


def _queue_again(storage: Storage, job_id: str) -> bool:
    with storage.catalogue.write() as connection:
        connection.execute(
            "UPDATE jobs SET status = 'queued', lease_owner = NULL, lease_expires_at = NULL"
            " WHERE job_id = ?",
            (job_id,),
        )
    return True


def _write_again(storage: Storage, collection_id: int, document_id: str) -> bool:
    with storage.catalogue.write() as connection:
        return write_again(storage, connection, collection_id, document_id, refine=True)


def _audit_counters(storage: Storage) -> list[Finding]:
    truth = (
        "SELECT c.collection_id, c.name, c.num_documents, c.num_memories, c.change_seq,"
        " (SELECT count(*) FROM documents d WHERE d.collection_id = c.collection_id"
        "  AND d.is_current = 1),"
        " (SELECT count(*) FROM memories m WHERE m.collection_id = c.collection_id"
        "  AND m.removed_seq IS NULL),"
        " (SELECT max(c.change_seq, coalesce(max(m.added_seq), 0),"
        "   coalesce(max(m.removed_seq), 0)) FROM memories m"
        "  WHERE m.collection_id = c.collection_id)"
        " FROM collections c WHERE c.deleted_at IS NULL"
    )
    with storage.catalogue.read() as connection:
        rows = connection.execute(truth).fetchall()
    return [
        Finding(
            Problem(
                "counter_wrong",
                f"collection {name!r} counts (documents, memories, changes) {tuple(said)}, "
                f"there are {tuple(true)}",
                "count again",
            ),
            partial(_set_counters, storage, collection_id, tuple(true)),
        )
        for collection_id, name, said, true in ((r[0], r[1], r[2:5], r[5:8]) for r in rows)
        if said != true
    ]


def _set_counters(storage: Storage, collection_id: int, true: tuple[int, ...]) -> bool:
    with storage.catalogue.write() as connection:
        connection.execute(
            "UPDATE collections SET num_documents = ?, num_memories = ?, change_seq = ? + 1"
            " WHERE collection_id = ?",
            (*true, collection_id),
        )
    return True


def _audit_leftovers(storage: Storage) -> list[Finding]:
    with storage.catalogue.read() as connection:
        orphans = recovery.orphan_shards(storage, connection)
    temps = [str(path.relative_to(storage.home)) for path in recovery.temp_files(storage)]
    return [
        Finding(
            Problem(code, f"{name} {what}", "delete it"),
            partial(_sweep, storage),
        )
        for code, what, names in (
            ("shard_orphan", "is in no catalogue: a commit was killed before its end", orphans),
            ("file_unfinished", "is a write that was killed before its end", temps),
        )
        for name in names
    ]


def _audit_indexes(storage: Storage, indexes: Mapping[int, LiveIndex]) -> list[Finding]:
    """Saved indexes that are damaged or of another store, and this process's own."""
    findings = []
    with storage.catalogue.read() as connection:
        rows = collections.live(connection)
        for row in rows:
            what = _index_file_fault(storage, connection, row)
            if what is not None:
                path = storage.index_path(row.collection_id)
                findings.append(
                    Finding(
                        Problem("index_damaged", f"{path.name} {what}", "delete it: it is a cache"),
                        partial(_delete_file, path),
                    )
                )
    for row in rows:
        index = indexes.get(row.collection_id)
        if index is None:
            continue
        with storage.catalogue.read() as connection:
            current = collections.by_id(connection, row.collection_id)
        if current is None:
            continue
        index.sync(current.change_seq)
        if not index.is_true():
            findings.append(
                Finding(
                    Problem(
                        "index_wrong",
                        f"the index of {row.collection.name!r} is not what the catalogue holds",
                        "rebuild it",
                    ),
                    partial(_rebuild, index),
                )
            )
    return findings


def _sweep(storage: Storage) -> bool:
    recovery.sweep(storage)
    return True


def _delete_file(path: Path) -> bool:
    remove(path)
    return True


def _rebuild(index: LiveIndex) -> bool:
    index.rebuild()
    return True


def _index_file_fault(storage: Storage, connection: Connection, row: CollectionRow) -> str | None:
    try:
        header, _ = load_index_file(storage.index_path(row.collection_id))
    except FileNotFoundError:
        return None
    except (CorruptionError, IncompatibleFormatError) as error:
        return f"is unreadable ({error.message})"
    if header.seq > row.change_seq:
        return "is ahead of the catalogue"
    if header.seq < row.purged_seq:
        return None  # merely old: the next process to select rebuilds it
    live = memories.live_at(connection, row.collection_id, header.seq)
    return None if header.digest == digest_of(live) else "is of other memories"
