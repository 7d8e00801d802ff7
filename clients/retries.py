"""When a request is sent again, and after how long.

Sent again: requests nobody answered, 429 and 503. Only requests that may arrive twice are
(``Call.repeatable``): reads, and writes that carry an Idempotency-Key. A ``Retry-After`` is
honoured in full: when it exceeds the patience, the error is raised at once instead.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypedDict

from tenacity import RetryCallState, retry_if_exception, stop_after_attempt, stop_before_delay
from tenacity.retry import RetryBaseT
from tenacity.stop import StopBaseT

from clients.errors import ConnectionError, OverloadedError, UnavailableError


class RetryOptions(TypedDict):
    """What tenacity's ``Retrying`` and ``AsyncRetrying`` are both built with."""

    retry: RetryBaseT
    stop: StopBaseT
    wait: Callable[[RetryCallState], float]
    reraise: bool


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    attempts: int = 6
    first_wait_s: float = 0.25
    """Doubles each time, with jitter, where the server gives no ``Retry-After``."""
    longest_wait_s: float = 10.0
    patience_s: float = 120.0
    """No wait is begun that would end later than this after the first attempt."""

    def options(self, repeatable: bool) -> RetryOptions:
        attempts = self.attempts if repeatable else 1
        return {
            "retry": retry_if_exception(is_temporary),
            "stop": stop_after_attempt(attempts) | stop_before_delay(self.patience_s),
            "wait": self._wait_s,
            "reraise": True,
        }

    def _wait_s(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked_s = getattr(error, "retry_after_s", None)
        if asked_s is not None:
            return float(asked_s)
        ceiling_s = min(self.longest_wait_s, self.first_wait_s * 2 ** (state.attempt_number - 1))
        return float(ceiling_s * random.uniform(0.5, 1.0))


NO_RETRIES = RetryPolicy(attempts=1)


def is_temporary(error: BaseException) -> bool:
    """Whether the same request may well succeed later."""
    return isinstance(error, ConnectionError | OverloadedError | UnavailableError)


def parse_retry_after_s(value: str | None) -> float | None:
    """Seconds to wait from a ``Retry-After`` header, which holds seconds or an HTTP date."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            at = parsedate_to_datetime(value)
        except ValueError:
            return None
        seconds = (at.astimezone(UTC) - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if seconds < float("inf") else None
