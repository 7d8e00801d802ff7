"""One suite for every vector index, and what only the approximate one must hold."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from memory_store import CompressedIndex, FlatIndex, FloatArray, NumpyIndex, VectorIndex

DIM = 8


def compressed(dim: int) -> CompressedIndex:
    """Trained for 1000 vectors, empty."""
    return CompressedIndex(vectors(1000, dim=dim, seed=9), expected=1000)


@pytest.fixture(params=[FlatIndex, NumpyIndex, compressed])
def index(request: pytest.FixtureRequest) -> VectorIndex:
    made: VectorIndex = request.param(DIM)
    return made


def vectors(n: int, seed: int = 0, dim: int = DIM) -> FloatArray:
    made = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
    unit: FloatArray = made / np.linalg.norm(made, axis=1, keepdims=True)
    return unit


def test_every_vector_finds_itself_first(index: VectorIndex) -> None:
    stored = vectors(20)
    index.add(range(100, 120), stored)
    for number, vector in enumerate(stored):
        ((found, score),) = index.search(vector, 1)
        assert found == 100 + number
        assert score == pytest.approx(1.0, abs=2**-11)  # float16


def test_the_best_come_first_and_all_of_them(index: VectorIndex) -> None:
    stored = vectors(10)
    index.add(range(10), stored)
    query = vectors(1, seed=1)[0]
    found = index.search(query, 4)
    expected = np.argsort(-(stored @ query))[:4].tolist()
    assert [number for number, _ in found] == expected


def test_asking_for_more_than_there_are_gives_what_there_is(index: VectorIndex) -> None:
    index.add([1, 2], vectors(2))
    assert {number for number, _ in index.search(vectors(1)[0], 50)} == {1, 2}
    assert index.search(vectors(1)[0], 0) == []


def test_an_empty_index_finds_nothing(index: VectorIndex) -> None:
    assert index.search(vectors(1)[0], 3) == []
    assert len(index) == 0


def test_a_filter_is_exact(index: VectorIndex) -> None:
    stored = vectors(30)
    index.add(range(30), stored)
    worst_first = np.argsort(stored @ stored[0])[:3].tolist()
    found = index.search(stored[0], 10, allowed=[*worst_first, 999])
    assert {number for number, _ in found} == set(worst_first)
    assert index.search(stored[0], 10, allowed=[]) == []


def test_a_filter_that_allows_many_is_exact(index: VectorIndex) -> None:
    stored = vectors(5000)
    index.add(range(5000), stored)
    allowed = np.arange(0, 5000, 2)
    query = vectors(1, seed=1)[0]
    expected = allowed[np.argsort(-(stored[allowed] @ query))[:20]]
    found = index.search(query, 20, allowed=allowed.tolist())
    scores = stored[[number for number, _ in found]] @ query
    np.testing.assert_allclose(scores, stored[expected] @ query, atol=2**-10)  # float16


def test_searches_of_many_threads_find_what_each_finds_alone(index: VectorIndex) -> None:
    index.add(range(5000), vectors(5000))
    queries = list(vectors(60, seed=1))
    alone = [index.search(query, 5) for query in queries]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda query: index.search(query, 5), queries))
    assert together == alone


def test_removed_vectors_are_never_found(index: VectorIndex) -> None:
    stored = vectors(5)
    index.add(range(5), stored)
    index.remove([3, 77])
    assert 3 not in {number for number, _ in index.search(stored[3], 5)}
    assert index.ids().tolist() == [0, 1, 2, 4]
    index.add([3], stored[3:4])
    assert index.search(stored[3], 1)[0][0] == 3


def test_equal_scores_are_ranked_by_id(index: VectorIndex) -> None:
    same = np.repeat(vectors(1), 3, axis=0)
    index.add([9, 4, 7], same)
    assert [number for number, _ in index.search(same[0], 3)] == [4, 7, 9]


@pytest.mark.parametrize(
    ("ids", "reason"),
    [([1, 1], "twice"), ([5, 6], "already"), ([-1, 2], "negative"), ([1, 2, 3], "shape")],
)
def test_bad_ids_are_refused_and_nothing_is_added(
    index: VectorIndex, ids: list[int], reason: str
) -> None:
    index.add([5], vectors(1))
    with pytest.raises(ValueError, match=reason):
        index.add(ids, vectors(2))
    assert index.ids().tolist() == [5]


def test_a_vector_that_is_not_finite_is_refused(index: VectorIndex) -> None:
    stored = vectors(2)
    stored[1, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        index.add([1, 2], stored)
    assert len(index) == 0


def test_adding_nothing_is_fine(index: VectorIndex) -> None:
    index.add([], np.empty((0, DIM), np.float32))
    assert len(index) == 0


def test_vectors_can_be_taken_out_again(index: VectorIndex) -> None:
    stored = vectors(5)
    index.add([7, 3, 9, 1, 4], stored)
    ids, taken = index.take(np.array([9, 2, 3]))
    assert sorted(ids.tolist()) == [3, 9]
    rows = [[7, 3, 9, 1, 4].index(number) for number in ids.tolist()]
    np.testing.assert_allclose(taken, stored[rows], atol=2**-11)


@pytest.mark.parametrize("make", [FlatIndex, compressed])
def test_a_dumped_index_loads_with_its_ids(
    make: Callable[[int], FlatIndex | CompressedIndex],
) -> None:
    index = make(DIM)
    stored = vectors(600)
    index.add(range(10, 610), stored)
    index.remove([12])
    pieces = index.dump()
    index.add([12], vectors(1, seed=5))  # changes nothing of what was dumped
    index.remove([12])
    loaded = type(index).load(memoryview(b"".join(pieces)))
    assert loaded.ids().tolist() == index.ids().tolist()
    assert loaded.search(stored[3], 2) == index.search(stored[3], 2)
    loaded.add([12], stored[2:3])
    assert loaded.search(stored[2], 1)[0][0] == 12
