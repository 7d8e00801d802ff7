"""The set's documents in a collection of their own: written once, reused afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from clients.client import Client
from clients.documents import Document
from clients.errors import NotFoundError, ParamemError
from clients.evaluation.data import EvalDocument
from clients.results import Memory, WriteMode
from clients.waiting import wait_for_jobs

Report = Callable[[str, float, int], None]
"""Called with a stage, how much of it is done, and how much there is."""


class CorpusError(ParamemError):
    """Not one document could be written."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """What the store holds of the set."""

    memories: tuple[Memory, ...]
    written: int  # documents written just now; the others were there
    write_s: float  # until the last of them was readable in its final tier
    failures: tuple[str, ...]  # documents without a memory, and why


def prepare_corpus(
    client: Client,
    documents: Sequence[EvalDocument],
    *,
    collection: str,
    mode: WriteMode,
    report: Report,
) -> Corpus:
    """Write what the collection does not yet remember in the wanted tier, and wait for it.

    A document that cannot be written is a failure to be shown, not the end of the evaluation.
    """
    missing = []
    for number, document in enumerate(documents, 1):
        if not _is_remembered(client, document, collection, mode):
            missing.append(document)
        report("looking", number, len(documents))
    started = time.monotonic()
    failures = _write(client, missing, collection, mode, report) if missing else []
    write_s = time.monotonic() - started
    memories = []
    for document in documents:
        memory = _find(client, document.id, collection)
        if memory is not None and memory.passages:
            memories.append(memory)
    if not memories:
        raise CorpusError(f"no document could be written; the first: {(failures or ['?'])[0]}")
    return Corpus(tuple(memories), len(missing), write_s, tuple(failures))


def _write(
    client: Client,
    documents: Sequence[EvalDocument],
    collection: str,
    mode: WriteMode,
    report: Report,
) -> list[str]:
    failures: list[str] = []
    job_ids: list[str] = []
    requests = (
        Document(text=doc.text, id=doc.id, title=doc.title, collection=collection, mode=mode)
        for doc in documents
    )
    for number, line in enumerate(client.write_many(requests), 1):
        if line.job is not None:
            job_ids.append(line.job.job_id)
        elif line.error is not None:
            failures.append(f"{line.document_id}: {line.error.message}")
        report("sending", number, len(documents))
    for stage in ("writing", "refining"):
        for state in wait_for_jobs(client, job_ids):
            report(stage, state.amount_done, len(job_ids))
        failures += [
            f"{job.document_id}: {stage} {job.status}: {job.error.message if job.error else '?'}"
            for job in state.finished
            if not job.succeeded
        ]
        job_ids = [job.refine_job_id for job in state.finished if job.refine_job_id]
        if not job_ids:
            break
    return failures


def _is_remembered(
    client: Client, document: EvalDocument, collection: str, mode: WriteMode
) -> bool:
    memory = _find(client, document.id, collection)
    if memory is None or not memory.passages or memory.num_chars != len(document.text):
        return False
    tier = "fast" if mode == "fast" else "fit"
    return all(passage.tier == tier for passage in memory.passages)


def _find(client: Client, document_id: str, collection: str) -> Memory | None:
    try:
        return client.memory(document_id, collection=collection)
    except NotFoundError:
        return None
