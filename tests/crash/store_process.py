"""One operation on a store, in a process that may be killed in the middle of it.

Usage: ``python -m tests.crash.store_process HOME submit|work|compact|save``. After every document
that ``submit`` was told is durable, its id is printed: what a client would have seen as a 202.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from memory_store import MemoryStore, WriteRequest
from tests.unit.memory_store.making import key_of, open_store, work

DOCUMENTS = tuple(f"d{number}" for number in range(4))


def submit(store: MemoryStore) -> None:
    for name in DOCUMENTS:
        store.submit(WriteRequest(f"text of {name}", name), idempotency_key=f"key of {name}")
        sys.stdout.write(f"{name}\n")
        sys.stdout.flush()


def save(store: MemoryStore) -> None:
    store.select("default", key_of("text of d1"), 1)
    store.save_index()


OPERATIONS: dict[str, Callable[[MemoryStore], object]] = {
    "submit": submit,
    "work": work,
    "compact": MemoryStore.compact,
    "save": save,
}

if __name__ == "__main__":
    with open_store(Path(sys.argv[1])) as opened:
        OPERATIONS[sys.argv[2]](opened)
