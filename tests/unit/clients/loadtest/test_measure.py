"""Figures of known samples."""

from __future__ import annotations

import pytest

from clients.loadtest.endpoint import read_gauges
from clients.loadtest.measure import Figures, Slo, latency_ratios, ratio
from clients.loadtest.replay import Replayed, Sample

SLO = Slo(ttft_ms=100, e2e_ms=500)


def sample(ttft: float, e2e: float, error: str | None = None) -> Sample:
    return Sample(ttft, e2e, (10.0, 30.0), 7, 3, error, {"select": 2.0})


def test_only_what_succeeded_counts_and_errors_are_told_by_code() -> None:
    samples = [sample(50, 200), sample(70, 400), sample(1, 1, "too_many_queries")]
    figures = Figures.of(Replayed(samples, seconds=2.0), SLO)
    assert figures.errors == {"too_many_queries": 1}
    assert figures.latency_ms["ttft"][50].value == 60
    assert figures.latency_ms["e2e"][50].value == 300
    assert figures.latency_ms["itl"][50].value == 20
    assert (figures.requests_per_s, figures.tokens_per_s) == (1.0, 3.0)
    assert (figures.prompt_positions, figures.server_ms) == (7, {"select": 2.0})


@pytest.mark.parametrize(
    ("one", "good"),
    [
        (sample(100, 500), True),
        (sample(101, 500), False),
        (sample(100, 501), False),
        (sample(1, 1, "engine_error"), False),
    ],
)
def test_goodput_counts_what_kept_both_promises(one: Sample, good: bool) -> None:
    assert Figures.of(Replayed([one], seconds=1.0), SLO).goodput_per_s == good


def test_nothing_that_succeeded_is_no_latency_at_all() -> None:
    figures = Figures.of(Replayed([sample(1, 1, "x")], seconds=1.0), SLO)
    assert figures.latency_ms == {"ttft": {}, "itl": {}, "e2e": {}}
    assert figures.requests_per_s == 0


def test_a_ratio_is_of_medians_with_its_interval() -> None:
    ours = [10.0, 20.0, 30.0, 40.0, 50.0] * 10
    found = ratio(ours, [3 * value for value in ours])
    assert found is not None
    assert (found.value, found.n) == (3.0, 50)
    assert found.low <= 3.0 <= found.high
    assert ratio([], []) is None


def test_ratios_are_of_requests_that_both_answered() -> None:
    ours = Replayed([sample(10, 100), sample(10, 100, "gone")], 1.0)
    theirs = Replayed([sample(40, 200), sample(9999, 9999)], 1.0)
    found = latency_ratios(ours, theirs)
    assert (found["ttft"].value, found["e2e"].value, found["e2e"].n) == (4.0, 2.0, 1)


def test_gauges_are_read_with_their_labels() -> None:
    text = (
        "# TYPE paramem_store_bytes gauge\n"
        'paramem_store_bytes{kind="shards"} 10\n'
        'paramem_store_bytes{kind="text"} 5\n'
    )
    assert read_gauges(text)["paramem_store_bytes"] == [
        ({"kind": "shards"}, 10.0),
        ({"kind": "text"}, 5.0),
    ]
