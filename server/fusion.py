"""One ranking out of several."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from memory_store.records import Hit

DAMPING = 60
"""Of Cormack, Clarke & Büttcher (2009), who found results to vary little with it."""


def fuse(rankings: Sequence[Sequence[Hit]]) -> list[Hit]:
    """Reciprocal rank fusion: a memory scores the sum of 1 / (60 + rank) over the rankings."""
    scores: dict[int, float] = defaultdict(float)
    hits: dict[int, Hit] = {}
    for ranking in rankings:
        for rank, hit in enumerate(ranking, start=1):
            scores[hit.memory.memory_id] += 1 / (DAMPING + rank)
            hits[hit.memory.memory_id] = hit
    best = sorted(scores, key=lambda memory_id: (-scores[memory_id], memory_id))
    return [replace(hits[memory_id], score=scores[memory_id]) for memory_id in best]
