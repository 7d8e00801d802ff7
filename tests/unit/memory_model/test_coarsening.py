"""Which slots of several memories are read."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memory_model.coarsening import coarsen, mean_windows


def codes(*slots: int) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.standard_normal((m, 3)).astype(np.float32) for m in slots]


def test_the_best_memory_stays_whole_and_the_others_have_at_most_so_many_slots() -> None:
    best, other, small = codes(64, 64, 8)
    read = coarsen([best, other, small], 16)
    assert read[0] is best
    assert [code.shape for code in read] == [(64, 3), (16, 3), (8, 3)]
    np.testing.assert_array_equal(read[2], small)
    np.testing.assert_allclose(read[1][5], other[20:24].mean(axis=0), rtol=1e-6)
    assert read[1].dtype == np.float32


@pytest.mark.parametrize("slots", [None, 64, 100])
def test_memories_that_have_no_more_slots_are_read_as_they_are(slots: int | None) -> None:
    given_codes = codes(64, 64)
    for read, code in zip(coarsen(given_codes, slots), given_codes, strict=True):
        np.testing.assert_array_equal(read, code)


def test_no_memory_is_no_problem() -> None:
    assert coarsen([], 16) == []


def test_arrays_and_tensors_are_coarsened_alike() -> None:
    arrays = codes(10, 10)
    tensors = [torch.from_numpy(code).requires_grad_() for code in arrays]
    coarse = coarsen(tensors, 3)
    np.testing.assert_allclose(coarse[1].detach().numpy(), coarsen(arrays, 3)[1], rtol=1e-6)
    coarse[1].sum().backward()  # training goes through it
    torch.testing.assert_close(tensors[1].grad.sum(), torch.tensor(3.0 * 3))


@given(count=st.integers(1, 70), slots=st.integers(1, 70))
def test_windows_are_even_and_leave_nothing_out(count: int, slots: int) -> None:
    read = min(count, slots)
    sums = np.arange(count, dtype=np.float32)[:, None]
    windows = [
        sums[number * count // read : (number + 1) * count // read] for number in range(read)
    ]
    assert {len(window) for window in windows} <= {count // read, -(-count // read)}
    expected = np.stack([window.mean(axis=0) for window in windows])
    np.testing.assert_allclose(mean_windows(sums, slots), expected, rtol=1e-6)
