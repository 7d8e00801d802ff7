"""What the clients were told is durable, to be compared with what is there.

A document has one owner, so its writes are in order. Every acknowledged write raises its version by
one, through deletions too: a version that differs from the count means a write lost or done twice.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entry:
    """The last acknowledged state of a document."""

    document_id: str
    version: int = 0  # acknowledged writes
    text: str | None = None  # None: deleted
    readable: bool = False  # the job of this version was seen to succeed


class Ledger:
    """Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: dict[str, Entry] = {}
        self._counts: Counter[str] = Counter()
        self._violations: list[str] = []

    def entry(self, document_id: str) -> Entry:
        with self._lock:
            return self._entries.get(document_id, Entry(document_id))

    def entries(self) -> list[Entry]:
        with self._lock:
            return sorted(self._entries.values(), key=lambda entry: entry.document_id)

    def record(self, entry: Entry) -> None:
        with self._lock:
            self._entries[entry.document_id] = entry

    def count(self, what: str, amount: int = 1) -> None:
        with self._lock:
            self._counts[what] += amount

    @property
    def counts(self) -> Counter[str]:
        with self._lock:
            return Counter(self._counts)

    def accuse(self, what: str, message: str) -> None:
        """Record a broken promise; ``what`` is counted: lost, duplicated, undead, answer …"""
        with self._lock:
            self._counts[what] += 1
            self._violations.append(f"{what}: {message}")

    @property
    def violations(self) -> list[str]:
        with self._lock:
            return list(self._violations)
