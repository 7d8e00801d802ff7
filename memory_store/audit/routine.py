"""The audit as a routine: its outcome is kept for metrics, and it comes again by itself."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from memory_store.audit import doctor
from memory_store.errors import StoreError
from memory_store.file_lock import FileLock
from memory_store.files import write_durably
from memory_store.index.live_index import LiveIndex
from memory_store.records import Problem
from memory_store.storage import Storage

LAST = "last-audit.json"
"""Not in the catalogue: one that is damaged must not be written to."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of an audit."""

    at: float = float("-inf")  # Unix seconds
    problems: int = 0  # that it left


def last_audit(home: Path) -> Outcome:
    """Of the last one of this home; if there was none, of one long ago."""
    try:
        told = json.loads((home / LAST).read_bytes())
        return Outcome(float(told["at"]), int(told["problems"]))
    except (OSError, ValueError, TypeError, KeyError):
        return Outcome()


def check(storage: Storage, indexes: Mapping[int, LiveIndex], *, repair: bool) -> list[Problem]:
    """:func:`doctor.check`, and how many problems it left is known from then on."""
    problems = doctor.check(storage, indexes, repair=repair)
    outcome = Outcome(storage.clock(), sum(not problem.repaired for problem in problems))
    with contextlib.suppress(StoreError):  # a full disk must not hide what was found
        write_durably(storage.home / LAST, json.dumps(asdict(outcome)).encode(), step="j-last")
    return problems


def check_if_due(
    storage: Storage, indexes: Mapping[int, LiveIndex], every_s: float
) -> list[Problem] | None:
    """See :meth:`memory_store.store.MemoryStore.check_if_due`."""
    if storage.clock() - last_audit(storage.home).at < every_s:
        return None
    with FileLock(storage.home / ".audit") as lock:
        if not lock.try_exclusive():
            return None
        problems = check(storage, indexes, repair=False)
        if problems:  # or what others were changing meanwhile
            again = check(storage, indexes, repair=False)
            problems = [problem for problem in again if problem in problems]
        return problems
