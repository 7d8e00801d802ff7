"""Queries go before writes: processes of one home tell each other that someone awaits an answer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from memory_store.file_lock import FileLock


class RightOfWay:
    """One process's view. Taken while it answers queries; thread-safe.

    Any number of processes take it together. It is a lock of the kernel's, so one that is killed
    gives it back. It is a courtesy, not a promise: whoever writes may go on beside it.
    """

    def __init__(self, path: Path) -> None:
        self._lock = FileLock(path)
        self._guard = threading.Lock()
        self._holders = 0

    @contextmanager
    def held(self) -> Iterator[None]:
        """While a query is being answered."""
        self.take()
        try:
            yield
        finally:
            self.give_back()

    def take(self) -> None:
        """Once for each query."""
        with self._guard:
            self._holders += 1
            if self._holders == 1:
                # another process that looks at it just now is in the way for microseconds; rather
                # than wait for it, this query goes without
                self._lock.try_share()

    def give_back(self) -> None:
        """Once for each :meth:`take`."""
        with self._guard:
            self._holders -= 1
            if self._holders == 0:
                self._lock.release()

    def is_taken(self) -> bool:
        """Whether a process has it; of this one itself, whether it should."""
        with self._guard:
            if self._holders:
                return True
            if not self._lock.try_exclusive():
                return True
            self._lock.release()
            return False

    def close(self) -> None:
        """Give it back for good. Idempotent."""
        self._lock.close()
