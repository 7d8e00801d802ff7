"""Every shard against the catalogue: header, every live row's code and key, every tensor.

A damaged memory is never repaired in place: it is tombstoned, its document written again if the
text is there, and the shard's sound rows are copied into a new one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from memory_store.audit.finding import Finding
from memory_store.catalogue import collections, memories
from memory_store.catalogue.collections import CollectionRow
from memory_store.catalogue.database import Connection
from memory_store.catalogue.intake import write_again
from memory_store.catalogue.memories import Pointer
from memory_store.crashpoints import reach
from memory_store.errors import CorruptionError, DiskFailedError, IncompatibleFormatError
from memory_store.records import Problem, Tier
from memory_store.shards.compaction import live_rows, rewrite
from memory_store.shards.shard import ShardReader, row_checksum
from memory_store.storage import Storage


@dataclass(frozen=True, slots=True)
class ShardRow:
    collection: CollectionRow
    shard_id: int
    name: str
    num_rows: int


@dataclass(frozen=True, slots=True)
class Damage:
    """What is wrong with a shard, and which memories cannot be served for it."""

    what: str
    memory_ids: Sequence[int]
    remedy: str | None = None  # what people must do, where nothing here can repair it


def audit_shards(storage: Storage) -> list[Finding]:
    with storage.catalogue.read() as connection:
        shards = [
            # damaged rows of the catalogue are found by their own audit
            (shard, [one for one in live_rows(connection, shard.shard_id) if one.is_sound])
            for shard in _all_shards(connection)
        ]
    findings = []
    for shard, pointers in shards:
        damage = _inspect(storage, shard, pointers)
        if damage is not None and _is_known(storage, shard):
            findings.append(_finding(storage, shard, damage))
    return findings


def _finding(storage: Storage, shard: ShardRow, damage: Damage) -> Finding:
    code = "shard_damaged"
    message = (
        f"shard {shard.name} {damage.what}; {len(damage.memory_ids)} memories are lost with it"
    )
    if damage.remedy is not None:
        return Finding(Problem(code, message, damage.remedy))
    storage.counters.checksum_failures += len(damage.memory_ids)
    repair = (
        "remove the damaged memories, write their documents again where the text was kept, "
        "move the sound rows to a new shard"
    )
    return Finding(
        Problem(code, message, repair), partial(_rescue, storage, shard, damage.memory_ids)
    )


def _inspect(storage: Storage, shard: ShardRow, pointers: Sequence[Pointer]) -> Damage | None:
    everything = [pointer.memory_id for pointer in pointers]
    try:
        # not from the cache: an open descriptor would hide that the file is gone
        reader = ShardReader(storage.shards.path(shard.name))
        damaged = [pointer.memory_id for pointer in pointers if not _is_sound(reader, pointer)]
        tensors = reader.damaged_tensors()
    except FileNotFoundError:
        return Damage("is missing", everything)
    except CorruptionError as error:
        return Damage(f"is unreadable ({error.message})", everything)
    except IncompatibleFormatError as error:
        return Damage(f"is unreadable ({error.message})", everything, remedy="upgrade paramem")
    except DiskFailedError as error:
        # the bytes may be sound: rewriting would give them up
        return Damage(f"cannot be read ({error.message})", everything, remedy="mend the disk")
    if reader.spec != shard.collection.collection.spec or reader.num_rows != shard.num_rows:
        return Damage("has the header of another shard", damaged)
    if damaged or tensors:
        return Damage("holds bytes that do not match their checksums", damaged)
    return None


def _is_sound(reader: ShardReader, pointer: Pointer) -> bool:
    try:
        return row_checksum(reader.row(pointer.row)) == pointer.checksum
    except CorruptionError:
        return False


def _rescue(storage: Storage, shard: ShardRow, memory_ids: Sequence[int]) -> bool:
    collection_id = shard.collection.collection_id
    written_again = True
    if memory_ids:
        with storage.catalogue.write() as connection:
            tiers = memories.documents_of(connection, memory_ids)
            seq = collections.next_seq(connection, collection_id)
            memories.tombstone_ids(connection, collection_id, memory_ids, seq)
            for document_id, tier in tiers.items():
                # all() would stop at the first document without a text
                written_again &= write_again(
                    storage, connection, collection_id, document_id, refine=tier is Tier.FIT
                )
        reach("j-after-tombstone")
    rewrite(storage, shard.collection, [shard.shard_id])
    return written_again


def _all_shards(connection: Connection) -> list[ShardRow]:
    return [
        ShardRow(collection, *row)
        for collection in collections.live(connection)
        for row in connection.execute(
            "SELECT shard_id, name, num_rows FROM shards WHERE collection_id = ?",
            (collection.collection_id,),
        ).fetchall()
    ]


def _is_known(storage: Storage, shard: ShardRow) -> bool:
    """Whether the shard is still in use: a compaction may have replaced it while we looked."""
    with storage.catalogue.read() as connection:
        row = connection.execute(
            "SELECT 1 FROM shards WHERE shard_id = ?", (shard.shard_id,)
        ).fetchone()
    return row is not None
