"""Scores of candidates from slots and words, and what is kept of candidates for the next query."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from memory_model.shared_words import words_of
from memory_store.records import Memory, Tier
from server.engine.generator import QueryReading
from server.reranking import Candidate, CandidateCache, score_candidates

MEMORY = Memory(
    memory_id=1,
    collection="default",
    document_id="d1",
    version=1,
    passage=0,
    tier=Tier.FAST,
    fingerprint="f",
    shard="s",
    row=0,
    checksum="c",
    num_bytes=1,
    num_tokens=1,
    text_start=0,
    text_end=1,
    stats={},
    created_at=0.0,
)
MEMORIES = [replace(MEMORY, memory_id=number) for number in range(5)]


def candidate(number: int) -> Candidate:
    """40 bytes."""
    return Candidate(np.full((4, 4), number, np.float16), np.arange(2, dtype=np.uint32))


def test_scores_equal_a_plain_loop_over_tokens_slots_and_words() -> None:
    random = np.random.default_rng(0)
    query = random.standard_normal((3, 8), np.float32)
    slots = list(random.standard_normal((4, 5, 8), np.float32).astype(np.float16))
    said = ["The ferry sleeps.", "A ferry to Skye", "Nothing.", "Skye, Skye"]
    words = {int(words_of("ferry")[0]): 0.3, int(words_of("skye")[0]): 0.2}
    router = [0.4, 0.3, 0.2, 0.1]
    expected = [
        sum(max(float(token @ slot.astype(np.float32)) for slot in memory) for token in query)
        + 0.5 * score
        + (0.3 if "ferry" in text else 0)
        + (0.2 if "Skye" in text else 0)
        for memory, score, text in zip(slots, router, said, strict=True)
    ]
    candidates = [Candidate(each, words_of(text)) for each, text in zip(slots, said, strict=True)]
    scores = score_candidates(QueryReading(query, words), candidates, router, 0.5)
    assert scores == pytest.approx(expected, abs=1e-5)
    assert score_candidates(QueryReading(query, words), [], [], 0.5) == []


def test_those_asked_for_the_longest_ago_are_forgotten_first() -> None:
    cache = CandidateCache(most_bytes=3 * 40)
    cache.keep(MEMORIES[:3], map(candidate, range(3)))
    assert list(cache.find([MEMORIES[0]])) == [0]
    cache.keep(MEMORIES[3:], map(candidate, (3, 4)))
    found = cache.find(MEMORIES)
    assert {number: int(each.slots[0, 0]) for number, each in found.items()} == {0: 0, 3: 3, 4: 4}
    assert cache.num_bytes == 3 * 40
    assert (cache.hits, cache.misses) == (4, 2)


def test_what_was_made_twice_counts_once() -> None:
    cache = CandidateCache(most_bytes=2 * 40)
    for _ in range(3):  # queries that came together
        cache.keep(MEMORIES[:2], map(candidate, range(2)))
    assert len(cache.find(MEMORIES)) == 2
    assert cache.num_bytes == 2 * 40


def test_no_memory_means_nothing_is_kept() -> None:
    cache = CandidateCache(most_bytes=0)
    cache.keep(MEMORIES, map(candidate, range(5)))
    assert cache.find(MEMORIES) == {}
    assert cache.num_bytes == 0


def test_a_memory_of_the_same_number_in_a_restored_store_is_another() -> None:
    cache = CandidateCache(most_bytes=1000)
    cache.keep([MEMORY], [candidate(1)])
    assert cache.find([replace(MEMORY, checksum="other")]) == {}
    moved = replace(MEMORY, shard="compacted", row=7)
    assert list(cache.find([moved])) == [MEMORY.memory_id]
