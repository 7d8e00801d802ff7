"""How a worker is asked to stop: no new leases at once, the running batch until a deadline."""

from __future__ import annotations

import threading
import time


class Drain:
    """A one-way switch with a deadline. Any thread (or a signal handler) may turn it."""

    def __init__(self, grace_s: float) -> None:
        self._grace_s = grace_s
        self._asked = threading.Event()
        self._deadline = float("inf")  # time.monotonic()

    def request(self, *, at_once: bool = False) -> None:
        """Stop leasing; the running batch has ``grace_s`` left, or nothing with ``at_once``.

        Asking again never moves the deadline back.
        """
        grace_s = 0.0 if at_once else self._grace_s
        self._deadline = min(self._deadline, time.monotonic() + grace_s)
        self._asked.set()

    @property
    def requested(self) -> bool:
        return self._asked.is_set()

    @property
    def overdue_s(self) -> float:
        """Seconds since the deadline; negative before it, -inf when nobody asked to stop."""
        return time.monotonic() - self._deadline

    def wait(self, timeout_s: float) -> bool:
        """Sleep, but wake at a request. Returns: whether there was one."""
        return self._asked.wait(timeout_s)
