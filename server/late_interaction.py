"""Late interaction: candidates scored by all of their slots, whose vectors are kept.

A memory's slot vectors depend on nothing but its codes. Those of memories that were candidates
lately are kept, so that of these neither codes are read nor vectors made: most of what re-ranking
costs, where a collection fits or questions are about the same things (experiments/LOG.md).

Symbols: C = candidates, T = query tokens, m = slots, r = width of the re-ranker.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

import numpy as np

from memory_store.records import FloatArray, HalfArray, Memory

_Key = tuple[int, str]


class SlotVectorCache:
    """The slot vectors of the memories that were asked for last, up to so many bytes of them."""

    def __init__(self, most_bytes: int) -> None:
        self.hits = 0
        self.misses = 0
        self._most_bytes = most_bytes
        self._num_bytes = 0
        self._vectors: OrderedDict[_Key, HalfArray] = OrderedDict()  # last used last

    @property
    def num_bytes(self) -> int:
        return self._num_bytes

    def find(self, memories: Iterable[Memory]) -> dict[int, HalfArray]:
        """Those that are known, by memory id."""
        found: dict[int, HalfArray] = {}
        for memory in memories:
            key = _key(memory)
            vectors = self._vectors.get(key)
            if vectors is None:
                self.misses += 1
                continue
            self.hits += 1
            self._vectors.move_to_end(key)
            found[memory.memory_id] = vectors
        return found

    def keep(self, memories: Iterable[Memory], vectors: Iterable[HalfArray]) -> None:
        """Remember these and forget those not asked for the longest, if need be."""
        for memory, each in zip(memories, vectors, strict=True):
            replaced = self._vectors.pop(_key(memory), None)
            self._num_bytes += each.nbytes - (0 if replaced is None else replaced.nbytes)
            self._vectors[_key(memory)] = each
        while self._num_bytes > self._most_bytes:
            _, forgotten = self._vectors.popitem(last=False)
            self._num_bytes -= forgotten.nbytes


def _key(memory: Memory) -> _Key:
    """A memory's codes never change; the checksum tells those of a restored store apart."""
    return memory.memory_id, memory.checksum


def late_interaction(
    query: FloatArray,
    slots: Sequence[HalfArray],
    router_scores: Sequence[float],
    router_weight: float,
) -> list[float]:
    """Scores of candidates: Σ_t max_s q_t·b_s + c · router score (``memory_model.reranker``).

    Args:
        query: (T, r) vectors of the query's tokens, their weights in them.
        slots: C of (m, r).
        router_scores: C.
        router_weight: c.

    Returns: C, higher is better.
    """
    if not slots:
        return []
    vectors = np.stack(slots).astype(np.float32)  # (C, m, r)
    best = (vectors @ query.T).max(axis=1)  # (C, T)
    scores = best.sum(axis=1) + router_weight * np.asarray(router_scores, np.float32)  # (C,)
    return [float(score) for score in scores]
