"""Percentile bootstrap intervals (Efron 1979), seeded so that a table can be made again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RESAMPLES = 2000
CONFIDENCE = 0.95
CHUNK_CELLS = 4_000_000

Statistic = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]
"""(resamples, n) -> (resamples,)"""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A statistic of n values, and where 95 % of its resampled selves lie."""

    value: float
    low: float
    high: float
    n: int

    def __format__(self, spec: str) -> str:
        """``f"{estimate:.2f}"`` is the value with its interval: ``2.16 [1.96, 2.32]``."""
        return f"{self.value:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


def mean(samples: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(samples.mean(axis=-1))


def percentile(q: float) -> Statistic:
    def of(samples: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.asarray(np.percentile(samples, q, axis=-1))

    return of


def estimate(
    values: Sequence[float], statistic: Statistic = mean, *, seed: int = 0
) -> Estimate | None:
    """None without values. Resamples whole values, so they should be independent."""
    if not values:
        return None
    data = np.asarray(values, dtype=np.float64)  # (n,)
    generator = np.random.default_rng(seed)
    rows = max(1, CHUNK_CELLS // len(data))
    resampled: list[npt.NDArray[np.float64]] = []
    for start in range(0, RESAMPLES, rows):
        shape = (min(rows, RESAMPLES - start), len(data))
        picks = generator.integers(0, len(data), size=shape)  # (rows, n)
        resampled.append(statistic(data[picks]))
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(np.concatenate(resampled), [tail, 100 - tail])
    value = float(statistic(data[None, :])[0])
    return Estimate(value, float(low), float(high), len(data))
