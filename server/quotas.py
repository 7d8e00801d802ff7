"""What a key may use: requests in a time, and documents and bytes that its collections hold."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from memory_store.records import StoredAmount
from server.errors import ApiError
from server.keys import ApiKey, Rate

MEASURE_S = 5.0


class TokenBucket:
    """Full at first; a request takes a token, tokens come back evenly over the period."""

    def __init__(self, rate: Rate, now: float) -> None:
        self._rate = rate
        self._tokens = float(rate.count)
        self._at = now

    def take(self, now: float) -> float:
        """Take a token. Returns the seconds to wait when there is none, 0 when there was one."""
        back = (now - self._at) * self._rate.count / self._rate.period_s
        self._tokens = min(float(self._rate.count), self._tokens + back)
        self._at = now
        if self._tokens >= 1:
            self._tokens -= 1
            return 0.0
        return (1 - self._tokens) * self._rate.period_s / self._rate.count


@dataclass(slots=True)
class _Held:
    """What a key's collections held when measured, and what was accepted since."""

    amount: StoredAmount
    measured_at: float

    def add(self, documents: int, num_bytes: int) -> None:
        now = self.amount
        self.amount = StoredAmount(now.documents + documents, now.num_bytes + num_bytes)


class Quotas:
    """One per app; thread-safe. Buckets start full with the process, amounts are the store's own.

    A write in progress counts as its text, until the store is measured again: every 5 s, and always
    before a refusal.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: dict[tuple[str, Rate], TokenBucket] = {}
        self._held: dict[str, _Held] = {}

    def admit(self, key: ApiKey) -> None:
        """Count a request. Raises: ApiError 429."""
        if key.rate is None:
            return
        with self._lock:
            now = self._clock()
            bucket = self._buckets.get((key.name, key.rate))
            if bucket is None:
                bucket = self._buckets[key.name, key.rate] = TokenBucket(key.rate, now)
            wait_s = bucket.take(now)
        if wait_s > 0:
            raise ApiError(
                429,
                "rate_limited",
                f"key {key.name} may send {key.rate.count} requests in {key.rate.period_s:g} s: "
                f"try again in {wait_s:.1f} s",
                param="rate",
                retry_after_s=wait_s,
            )

    def charge(
        self, key: ApiKey, *, documents: int, num_bytes: int, measure: Callable[[], StoredAmount]
    ) -> None:
        """Count a write before it is stored. Raises: ApiError 507 that names the quota."""
        if key.max_documents is None and key.max_bytes is None:
            return
        with self._lock:
            held = self._held.get(key.name)
            fresh = held is None or self._clock() - held.measured_at >= MEASURE_S
            if held is None or fresh:
                held = self._measure(key, measure)
            refusal = _refusal(key, held.amount, documents, num_bytes)
            if refusal is not None and not fresh:
                held = self._measure(key, measure)
                refusal = _refusal(key, held.amount, documents, num_bytes)
            if refusal is not None:
                raise refusal
            held.add(documents, num_bytes)

    def _measure(self, key: ApiKey, measure: Callable[[], StoredAmount]) -> _Held:
        held = self._held[key.name] = _Held(measure(), self._clock())
        return held


def _refusal(key: ApiKey, held: StoredAmount, documents: int, num_bytes: int) -> ApiError | None:
    for name, limit, now, more in (
        ("documents", key.max_documents, held.documents, documents),
        ("bytes", key.max_bytes, held.num_bytes, num_bytes),
    ):
        if limit is not None and more and now + more > limit:
            return ApiError(
                507,
                "quota_exceeded",
                f"the quota of key {key.name} is {limit} {name}, {now} are stored and this write "
                f"adds {more}: delete some, or have {name}= raised in the key file",
                param=name,
            )
    return None
