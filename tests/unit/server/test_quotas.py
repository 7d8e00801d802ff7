"""Token buckets, and what a key's collections may hold."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory_store.records import StoredAmount
from server.errors import ApiError
from server.keys import ApiKey, Rate
from server.quotas import MEASURE_S, Quotas, TokenBucket

KEY = ApiKey("app", b"", max_documents=10, max_bytes=1000)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@given(
    st.integers(1, 20),
    st.lists(st.floats(0, 3, allow_nan=False), min_size=1, max_size=80),
)
def test_a_bucket_never_lets_more_through_than_its_rate(count: int, pauses: list[float]) -> None:
    bucket, now, taken = TokenBucket(Rate(count, 1.0), 0.0), 0.0, [0.0]
    for pause in pauses:
        now += pause
        if bucket.take(now) == 0:
            taken.append(now)
    assert len(taken) - 1 <= count + now * count + 1e-6
    for first, last in pairwise(taken[:: count + 1]):
        assert last > first  # never more than `count` at one moment


def test_who_waits_as_long_as_told_is_let_through() -> None:
    bucket = TokenBucket(Rate(2, 1.0), 0.0)
    assert [bucket.take(0.0), bucket.take(0.0)] == [0.0, 0.0]
    wait_s = bucket.take(0.0)
    assert wait_s == pytest.approx(0.5)
    assert bucket.take(wait_s + 1e-9) == 0.0


def test_a_changed_rate_starts_a_bucket_of_its_own() -> None:
    quotas = Quotas(clock=Clock())
    slow = ApiKey("app", b"", rate=Rate(1, 60.0))
    quotas.admit(slow)
    with pytest.raises(ApiError) as refusal:
        quotas.admit(slow)
    assert refusal.value.status_code == 429
    assert refusal.value.headers == {"Retry-After": "60"}
    quotas.admit(ApiKey("app", b"", rate=Rate(2, 60.0)))
    quotas.admit(ApiKey("other", b"", rate=Rate(1, 60.0)))


@pytest.mark.parametrize(
    ("documents", "num_bytes", "named"), [(1, 1001, "bytes"), (11, 1, "documents")]
)
def test_a_quota_that_would_be_exceeded_is_named(
    documents: int, num_bytes: int, named: str
) -> None:
    with pytest.raises(ApiError) as refusal:
        Quotas().charge(
            KEY, documents=documents, num_bytes=num_bytes, measure=lambda: StoredAmount(0, 0)
        )
    assert (refusal.value.status_code, refusal.value.code) == (507, "quota_exceeded")
    assert refusal.value.param == named


def test_writes_in_progress_count_before_the_store_knows_them() -> None:
    stored = [StoredAmount(9, 0), StoredAmount(10, 300), StoredAmount(9, 300)]
    quotas = Quotas(clock=Clock())

    def charge(num_bytes: int = 1) -> None:
        quotas.charge(KEY, documents=1, num_bytes=num_bytes, measure=lambda: stored.pop(0))

    charge()
    with pytest.raises(ApiError):
        charge()  # the tenth is on its way: measured again before it is refused
    charge()  # and something was deleted since
    assert stored == []


def test_the_store_is_measured_now_and_then_not_for_every_write() -> None:
    clock, measured = Clock(), list[float]()
    quotas = Quotas(clock=clock)

    def measure() -> StoredAmount:
        measured.append(clock.now)
        return StoredAmount(0, 0)

    for clock.now in (0.0, 1.0, MEASURE_S):
        quotas.charge(KEY, documents=1, num_bytes=1, measure=measure)
    assert measured == [0.0, MEASURE_S]


def test_a_key_without_quotas_never_measures() -> None:
    Quotas().charge(ApiKey("app", b""), documents=1, num_bytes=1 << 60, measure=lambda: 1 / 0)  # type: ignore[arg-type, return-value]
