"""Windows of like information against all possible cuts."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memory_model.windows import LONGEST, window_weights

ALIKE = torch.ones(1, 12)


def lengths(weights: torch.Tensor) -> list[int]:
    """Tokens in each of one passage's windows. (m, L)"""
    return (weights > 0).sum(dim=-1).tolist()


def test_tokens_that_hold_alike_are_dealt_out_evenly_and_in_order() -> None:
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    weights = window_weights(torch.ones(2, 6), mask, 2)  # (2, 2, 6)
    third, half = 1 / 3, 1 / 2
    expected = torch.tensor(
        [
            [[third, third, third, 0, 0, 0], [0, 0, 0, third, third, third]],
            [[half, half, 0, 0, 0, 0], [0, 0, half, half, 0, 0]],
        ]
    )
    torch.testing.assert_close(weights, expected)


@pytest.mark.parametrize("slots", [1, 2, 5, 7, 11])
def test_even_windows_differ_by_one_token_at_most(slots: int) -> None:
    found = lengths(window_weights(ALIKE, ALIKE.bool(), slots)[0])
    bounds = [slot * 12 // slots for slot in range(slots + 1)]  # as in bundles of format 1
    assert found == [end - start for start, end in pairwise(bounds)]
    assert max(found) - min(found) <= 1


@given(
    held=st.lists(st.floats(0.1, 15.0), min_size=4, max_size=9),
    slots=st.integers(1, 4),
)
def test_no_other_cuts_spread_information_more_evenly(held: list[float], slots: int) -> None:
    information = torch.tensor([held], dtype=torch.double)
    weights = window_weights(information, torch.ones(1, len(held), dtype=torch.bool), slots)[0]
    found = float(((weights > 0) * information).sum(dim=-1).square().sum())
    longest = LONGEST * -(-len(held) // slots)
    costs = []
    for cuts in combinations(range(1, len(held)), slots - 1):
        pieces = [held[a:b] for a, b in pairwise((0, *cuts, len(held)))]
        if max(map(len, pieces)) <= longest:
            costs.append(sum(sum(piece) ** 2 for piece in pieces))
    assert sum(lengths(weights)) == len(held)
    assert found == pytest.approx(min(costs))


def test_a_passage_shorter_than_the_slots_fills_every_slot() -> None:
    weights = window_weights(torch.ones(1, 3), torch.tensor([[True, True, False]]), 4)  # (1, 4, 3)
    assert weights.sum(dim=-1).allclose(torch.ones(1, 4))
    assert weights[0].argmax(dim=-1).tolist() == [0, 0, 1, 1]


def test_rows_of_a_batch_are_cut_as_they_would_be_alone() -> None:
    information = torch.rand(3, 20, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(20) < torch.tensor([[20], [13], [3]])  # (3, 20)
    number = torch.tensor([6, 9, 4])
    together = window_weights(information, mask, number)  # (3, 9, 20)
    for row, slots in enumerate(number.tolist()):
        alone = window_weights(information[row : row + 1], mask[row : row + 1], slots)[0]
        torch.testing.assert_close(together[row, :slots], alone)
        assert together[row, slots:].count_nonzero() == 0


def test_the_longest_window_of_a_row_does_not_depend_on_the_batch() -> None:
    information = torch.full((2, 40), 0.01)
    information[0, 21:] = 100.0  # asks for one window of all that comes before
    mask = torch.ones(2, 40, dtype=torch.bool)
    together = window_weights(information, mask, torch.tensor([20, 2]))
    alone = window_weights(information[:1], mask[:1], 20)
    torch.testing.assert_close(together[:1], alone)
    assert max(lengths(alone[0])) <= LONGEST * 2


def test_within_a_window_tokens_of_higher_score_count_more() -> None:
    mask = torch.tensor([[True, True, True, True, False]])
    scores = torch.tensor([[0.0, 2.0, 1.0, 1.0, 9.0]])[..., None]
    weights = window_weights(torch.ones(1, 5), mask, 2, scores)[0]  # (m, L)
    first = torch.tensor([0.0, 2.0]).softmax(dim=0).tolist()
    expected = torch.tensor([[*first, 0.0, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5, 0.0]])
    torch.testing.assert_close(weights, expected)
