"""From samples to figures: percentiles, throughput, goodput, and ratios between two endpoints."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from clients.evaluation.bootstrap import RESAMPLES, Estimate, estimate, percentile
from clients.loadtest.replay import Replayed, Sample

PERCENTILES = (50, 95, 99)


@dataclass(frozen=True, slots=True)
class Slo:
    """What an answer must keep to be good."""

    ttft_ms: float
    e2e_ms: float

    def holds(self, sample: Sample) -> bool:
        in_time = sample.ttft_ms <= self.ttft_ms and sample.e2e_ms <= self.e2e_ms
        return sample.error is None and in_time


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one endpoint. Percentiles are of the requests that succeeded."""

    requests: int
    errors: Mapping[str, int]  # by code
    latency_ms: Mapping[str, Mapping[int, Estimate]]  # ttft, itl, e2e -> percentile
    requests_per_s: float
    tokens_per_s: float
    goodput_per_s: float
    prompt_positions: float  # mean
    completion_tokens: float  # mean
    server_ms: Mapping[str, float]  # mean of each stage

    @classmethod
    def of(cls, replayed: Replayed, slo: Slo) -> Figures:
        good = [sample for sample in replayed.samples if sample.error is None]
        stages: dict[str, list[float]] = defaultdict(list)
        for sample in good:
            for stage, value in sample.server_ms.items():
                stages[stage].append(value)
        return cls(
            requests=len(replayed.samples),
            errors=Counter(s.error for s in replayed.samples if s.error is not None),
            latency_ms={
                "ttft": percentiles([sample.ttft_ms for sample in good]),
                "itl": percentiles([gap for sample in good for gap in sample.itl_ms]),
                "e2e": percentiles([sample.e2e_ms for sample in good]),
            },
            requests_per_s=len(good) / replayed.seconds,
            tokens_per_s=sum(s.completion_tokens for s in good) / replayed.seconds,
            goodput_per_s=sum(map(slo.holds, replayed.samples)) / replayed.seconds,
            prompt_positions=_mean([sample.prompt_positions for sample in good]),
            completion_tokens=_mean([sample.completion_tokens for sample in good]),
            server_ms={stage: _mean(values) for stage, values in stages.items()},
        )


def percentiles(values: Sequence[float]) -> dict[int, Estimate]:
    """None of them without values."""
    found = {q: estimate(values, percentile(q)) for q in PERCENTILES}
    return {q: value for q, value in found.items() if value is not None}


def ratio(ours: Sequence[float], theirs: Sequence[float], *, seed: int = 0) -> Estimate | None:
    """Median of theirs / median of ours, of requests in pairs; above 1 we are faster.

    Args:
        ours, theirs: of the same requests, in the same order.
    """
    if not ours:
        return None
    pairs = np.array([ours, theirs])  # (2, n)
    generator = np.random.default_rng(seed)
    picks = generator.integers(0, pairs.shape[1], size=(RESAMPLES, pairs.shape[1]))
    a, b = np.median(pairs[:, picks], axis=-1)  # (RESAMPLES,) each
    low, high = np.percentile(b / a, [2.5, 97.5])
    value = float(np.median(pairs[1]) / np.median(pairs[0]))
    return Estimate(value, float(low), float(high), pairs.shape[1])


def latency_ratios(ours: Replayed, theirs: Replayed) -> dict[str, Estimate]:
    """TTFT and e2e, over the requests that both answered."""
    both = [
        (a, b)
        for a, b in zip(ours.samples, theirs.samples, strict=True)
        if a.error is None and b.error is None
    ]
    found = {
        "ttft": ratio([a.ttft_ms for a, _ in both], [b.ttft_ms for _, b in both]),
        "e2e": ratio([a.e2e_ms for a, _ in both], [b.e2e_ms for _, b in both]),
    }
    return {name: value for name, value in found.items() if value is not None}


def throughput_ratio(ours: Figures, theirs: Figures) -> float:
    """How many requests a second we end for one of theirs."""
    return ours.requests_per_s / max(theirs.requests_per_s, 1e-9)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
