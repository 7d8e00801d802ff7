"""One operation on a store, in a process that may be killed in the middle of it.

Usage: ``python -m tests.crash.store_process HOME OPERATION``. After every document that ``submit``
was told is durable, its id is printed: what a client would have seen as a 202.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from memory_store import MemoryStore, Snapshots, Tier, WriteRequest
from tests.unit.memory_store.making import SPEC, key_of, open_store, work

DOCUMENTS = tuple(f"d{number}" for number in range(4))


def submit(store: MemoryStore) -> None:
    for name in DOCUMENTS:
        store.submit(WriteRequest(f"text of {name}", name), idempotency_key=f"key of {name}")
        sys.stdout.write(f"{name}\n")
        sys.stdout.flush()


def save(store: MemoryStore) -> None:
    store.select("default", key_of("text of d1"), 1)
    store.save_index()


def snapshot(store: MemoryStore) -> None:
    store.snapshot(Snapshots(Path(sys.argv[1])))


def delete(store: MemoryStore) -> None:
    store.delete_document("default", "d0")


def prepare(home: Path, operation: str) -> None:
    """What must be there before the operation that is killed."""
    with open_store(home) as store:
        if operation == "submit":
            return
        submit(store)
        if operation == "work":
            return
        work(store)
        store.delete_document("default", "d3")
        store.submit(WriteRequest("text of d3", "d3"))
        work(store, tiers=(Tier.FAST,))
        if operation == "compact":
            store.put_collection("emptied", SPEC)
            store.submit(WriteRequest("text", "x", collection="emptied"))
            work(store, tiers=(Tier.FAST,))
            store.delete_collection("emptied")
    if operation == "repair":
        for shard in (home / "shards" / "1").iterdir():
            data = bytearray(shard.read_bytes())
            data[-1] ^= 1
            shard.write_bytes(data)


OPERATIONS: dict[str, Callable[[MemoryStore], object]] = {
    "submit": submit,
    "work": work,
    "compact": MemoryStore.compact,
    "save": save,
    "delete": delete,
    "repair": partial(MemoryStore.check, repair=True),
    "snapshot": snapshot,
}

if __name__ == "__main__":
    if sys.argv[2] == "restore":  # from outside, as the command does
        snapshots = Snapshots(Path(sys.argv[1]))
        snapshots.restore(snapshots.newest().snapshot_id)
    else:
        with open_store(Path(sys.argv[1])) as opened:
            OPERATIONS[sys.argv[2]](opened)
