"""Locks between processes: flock on a file, given back by the kernel whatever ends its holder."""

from __future__ import annotations

import fcntl
import os
import weakref
from pathlib import Path

from memory_store.files import told_as_disk_errors


class FileLock:
    """One holder's view of a lock file, which is created. Each instance holds on its own."""

    def __init__(self, path: Path) -> None:
        with told_as_disk_errors():
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._close = weakref.finalize(self, os.close, self._descriptor)

    def share(self) -> None:
        """Hold it together with others; waits for an exclusive holder."""
        fcntl.flock(self._descriptor, fcntl.LOCK_SH)

    def try_share(self) -> bool:
        """Hold it together with others, unless one holds it alone."""
        return self._try(fcntl.LOCK_SH)

    def try_exclusive(self) -> bool:
        """Hold it alone, unless anyone else holds it."""
        return self._try(fcntl.LOCK_EX)

    def _try(self, kind: int) -> bool:
        try:
            fcntl.flock(self._descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        """Give it back, to hold it again later."""
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Give it back. Idempotent."""
        self._close()

    def __enter__(self) -> FileLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
