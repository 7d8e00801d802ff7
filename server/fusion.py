"""One ranking out of several."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from memory_store.records import Hit

DAMPING = 60
"""Of Cormack, Clarke & Büttcher (2009), who found results to vary little with it."""


def fuse(rankings: Iterable[Iterable[int]]) -> dict[int, float]:
    """Reciprocal rank fusion: an id scores the sum of 1 / (60 + rank) over the rankings.

    Returns: ids and scores, best first, equal scores by id.
    """
    scores: dict[int, float] = defaultdict(float)
    for ranking in rankings:
        for rank, number in enumerate(ranking, start=1):
            scores[number] += 1 / (DAMPING + rank)
    return dict(sorted(scores.items(), key=lambda item: (-item[1], item[0])))


def fuse_hits(rankings: Sequence[Sequence[Hit]]) -> list[Hit]:
    """The hits of all rankings, each once, with the scores of :func:`fuse`."""
    hits = {hit.memory.memory_id: hit for ranking in rankings for hit in ranking}
    fused = fuse([hit.memory.memory_id for hit in ranking] for ranking in rankings)
    return [replace(hits[memory_id], score=score) for memory_id, score in fused.items()]
