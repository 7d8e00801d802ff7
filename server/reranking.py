"""Re-ranking: candidates scored by all of their slots and by the words they share with the query.

What a candidate is scored by depends on nothing but its codes and its text. Of memories that were
candidates lately it is kept, so that of these neither is read and no vectors are made: most of what
re-ranking costs, where a collection fits or questions are about the same things
(experiments/LOG.md).

Symbols: C = candidates, T = query tokens, m = slots, r = width of the re-ranker.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from memory_model.shared_words import Words, count_shared
from memory_store.records import HalfArray, Memory
from server.engine.generator import QueryReading

_Key = tuple[int, str]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A memory as the re-ranker sees it."""

    slots: HalfArray  # (m, r)
    words: Words | None  # None: its text was not kept

    @property
    def num_bytes(self) -> int:
        return self.slots.nbytes + (0 if self.words is None else self.words.nbytes)


class CandidateCache:
    """The candidates that were asked for last, up to so many bytes of them."""

    def __init__(self, most_bytes: int) -> None:
        self.hits = 0
        self.misses = 0
        self.num_bytes = 0
        self._most_bytes = most_bytes
        self._candidates: OrderedDict[_Key, Candidate] = OrderedDict()  # last used last

    def find(self, memories: Iterable[Memory]) -> dict[int, Candidate]:
        """Those that are known, by memory id."""
        found: dict[int, Candidate] = {}
        for memory in memories:
            candidate = self._candidates.get(_key(memory))
            if candidate is None:
                self.misses += 1
                continue
            self.hits += 1
            self._candidates.move_to_end(_key(memory))
            found[memory.memory_id] = candidate
        return found

    def keep(self, memories: Iterable[Memory], candidates: Iterable[Candidate]) -> None:
        """Remember these and forget those not asked for the longest, if need be."""
        for memory, candidate in zip(memories, candidates, strict=True):
            replaced = self._candidates.pop(_key(memory), None)
            self.num_bytes += candidate.num_bytes - (replaced.num_bytes if replaced else 0)
            self._candidates[_key(memory)] = candidate
        while self.num_bytes > self._most_bytes:
            _, forgotten = self._candidates.popitem(last=False)
            self.num_bytes -= forgotten.num_bytes


def _key(memory: Memory) -> _Key:
    """A memory's codes never change; the checksum tells those of a restored store apart."""
    return memory.memory_id, memory.checksum


def score_candidates(
    query: QueryReading,
    candidates: Sequence[Candidate],
    router_scores: Sequence[float],
    router_weight: float,
) -> list[float]:
    """Σ_t max_s q_t·b_s + c · router score (``memory_model.reranker``) + what shared words count
    (``memory_model.shared_words``).

    Args:
        router_scores: C.
        router_weight: c.

    Returns: C, higher is better.
    """
    if not candidates:
        return []
    slots = np.stack([each.slots for each in candidates]).astype(np.float32)  # (C, m, r)
    best = (slots @ query.vectors.T).max(axis=1)  # (C, T)
    scores = best.sum(axis=1) + router_weight * np.asarray(router_scores, np.float32)  # (C,)
    scores += count_shared(query.words, [each.words for each in candidates])
    return [float(score) for score in scores]
