"""The highest value of something that changes while other work goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self


class Peak:
    """Looks again and again, in a thread, until its block is left.

    Raises (at the end of the block): what looking raised, so that no peak is reported that nobody
    looked for.
    """

    def __init__(self, look: Callable[[], float], *, every_s: float) -> None:
        self._look = look
        self._every_s = every_s
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._error: Exception | None = None
        self.first = self.highest = look()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._left.set()
        self._thread.join()
        if self._error is not None and error is None:
            raise self._error

    def _run(self) -> None:
        try:
            while not self._left.wait(self._every_s):
                self.highest = max(self.highest, self._look())
        except Exception as error:
            self._error = error
