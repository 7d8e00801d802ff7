"""Scores of candidates from all of their slots, and the slot vectors that are kept for them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from memory_store.records import HalfArray, Memory, Tier
from server.late_interaction import SlotVectorCache, late_interaction

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


def vectors(number: int) -> HalfArray:
    """32 bytes."""
    return np.full((4, 4), number, np.float16)


def test_scores_equal_a_plain_loop_over_tokens_and_slots() -> None:
    random = np.random.default_rng(0)
    query = random.standard_normal((3, 8), np.float32)
    slots = list(random.standard_normal((4, 5, 8), np.float32).astype(np.float16))
    router = [0.4, 0.3, 0.2, 0.1]
    expected = [
        sum(max(float(token @ slot.astype(np.float32)) for slot in memory) for token in query)
        + 0.5 * score
        for memory, score in zip(slots, router, strict=True)
    ]
    assert late_interaction(query, slots, router, 0.5) == pytest.approx(expected, abs=1e-5)


def test_those_asked_for_the_longest_ago_are_forgotten_first() -> None:
    cache = SlotVectorCache(most_bytes=3 * 32)
    cache.keep(MEMORIES[:3], map(vectors, range(3)))
    assert list(cache.find([MEMORIES[0]])) == [0]
    cache.keep(MEMORIES[3:], map(vectors, (3, 4)))
    found = cache.find(MEMORIES)
    assert {number: int(each[0, 0]) for number, each in found.items()} == {0: 0, 3: 3, 4: 4}
    assert cache.num_bytes == 3 * 32
    assert (cache.hits, cache.misses) == (4, 2)


def test_what_was_made_twice_counts_once() -> None:
    cache = SlotVectorCache(most_bytes=2 * 32)
    for _ in range(3):  # queries that came together
        cache.keep(MEMORIES[:2], map(vectors, range(2)))
    assert len(cache.find(MEMORIES)) == 2
    assert cache.num_bytes == 2 * 32


def test_no_memory_means_nothing_is_kept() -> None:
    cache = SlotVectorCache(most_bytes=0)
    cache.keep(MEMORIES, map(vectors, range(5)))
    assert cache.find(MEMORIES) == {}
    assert cache.num_bytes == 0


def test_a_memory_of_the_same_number_in_a_restored_store_is_another() -> None:
    cache = SlotVectorCache(most_bytes=1000)
    cache.keep([MEMORY], [vectors(1)])
    assert cache.find([replace(MEMORY, checksum="other")]) == {}
    moved = replace(MEMORY, shard="compacted", row=7)
    assert list(cache.find([moved])) == [MEMORY.memory_id]
