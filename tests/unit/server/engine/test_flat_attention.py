"""Prompts and running rows side by side: each is as it would be alone, and padded where it pays."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedModel

from server.engine import flat_attention
from server.engine.batch import FEWEST_COLUMNS, Batch
from server.engine.flat_attention import CALL, Run, runs_of

pytestmark = [
    pytest.mark.usefixtures("inference"),
    pytest.mark.skipif(
        "fbgemm" not in torch.backends.quantized.supported_engines, reason="packs on x86 CPUs only"
    ),
]

HIDDEN = 64


class Rows:
    """A batch, and what each of its rows has been given, to be computed alone."""

    def __init__(self, lm: PreTrainedModel) -> None:
        self.batch = Batch(lm)
        self._lm = lm
        self._given: list[torch.Tensor] = []  # embeddings of each row
        self._random = torch.Generator().manual_seed(0)

    def extend(self, lengths: list[int]) -> None:
        """A token for each row, and new rows beside them; compares what all of them get."""
        prompts = [torch.randn(length, HIDDEN, generator=self._random) * 0.2 for length in lengths]
        tokens = torch.randint(3, 200, (len(self._given),), generator=self._random)
        if prompts:
            logits = self.batch.join(prompts, tokens.tolist())
        else:
            logits = self.batch.step(tokens.tolist())
        embedded = self._lm.get_input_embeddings()(tokens)
        self._given = [
            torch.cat([*pair]) for pair in zip(self._given, embedded[:, None], strict=True)
        ]
        self._given += prompts
        alone = [self._lm(inputs_embeds=given[None]).logits[0, -1] for given in self._given]
        torch.testing.assert_close(logits, torch.stack(alone), atol=2e-4, rtol=1e-3)

    def keep(self, *rows: int) -> None:
        self.batch.keep(rows)
        self._given = [self._given[row] for row in rows]


@pytest.mark.parametrize("call", [CALL, 0, 10**6], ids=["measured", "apart", "padded"])
def test_rows_go_on_while_others_join(
    lm: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    monkeypatch.setattr(flat_attention, "CALL", call)
    rows = Rows(lm)
    rows.extend([5])
    rows.extend([40, 2])
    rows.extend([])
    rows.extend([300])
    rows.keep(3, 1, 0)  # rows change places, and one takes another's lane
    rows.extend([7, 7])
    rows.extend([])
    rows.keep(4, 3)
    rows.extend([])  # of one length
    assert len(rows.batch) == 2


def test_rows_may_wait_while_others_join(lm: PreTrainedModel) -> None:
    batch, undisturbed = Batch(lm), Batch(lm)
    prompt = torch.randn(6, HIDDEN)
    for each in (batch, undisturbed):
        each.join([prompt])
    batch.join([torch.randn(50, HIDDEN)])
    torch.testing.assert_close(batch.step([7, 8])[0], undisturbed.step([7])[0])


def test_a_prompt_that_fails_leaves_the_rows_beside_it_as_they_were(
    lm: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = Rows(lm)
    rows.extend([6, 4])
    attend = flat_attention.attend_causally
    calls = 0

    def fails_in_the_second_layer(*given: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise torch.OutOfMemoryError
        return attend(*given)

    with monkeypatch.context() as patched:
        patched.setattr(flat_attention, "attend_causally", fails_in_the_second_layer)
        with pytest.raises(torch.OutOfMemoryError):
            rows.batch.join([torch.full((30, HIDDEN), torch.nan)], [5, 6])
    rows.extend([])
    rows.extend([3])  # where the NaN were
    rows.extend([])


def test_a_row_has_room_for_its_own_positions_only(lm: PreTrainedModel) -> None:
    batch = Batch(lm)
    batch.join([torch.randn(FEWEST_COLUMNS, HIDDEN)])
    assert batch._cache is not None
    assert batch._cache.layers[-1].room == (1, FEWEST_COLUMNS)
    batch.step([5])
    assert batch._cache.layers[-1].room == (1, 2 * FEWEST_COLUMNS)


def test_lanes_of_like_length_are_computed_together() -> None:
    assert runs_of([100, 120, 110, 600, 105]) == [Run(0, 3, 120), Run(3, 4, 600), Run(4, 5, 105)]
    assert runs_of([600, 610, 590]) == [Run(0, 3, 610)]
    assert runs_of([7]) == [Run(0, 1, 7)]


def cost_of(runs: Sequence[Run]) -> int:
    return sum((run.last - run.first) * run.columns + CALL for run in runs)


@given(st.lists(st.integers(1, 4000), min_size=1, max_size=64))
def test_every_lane_is_in_one_run_and_simpler_dealings_are_not_cheaper(columns: list[int]) -> None:
    runs = runs_of(columns)
    lanes = [lane for run in runs for lane in range(run.first, run.last)]
    assert lanes == list(range(len(columns)))
    assert all(run.columns == max(columns[run.first : run.last]) for run in runs)
    assert cost_of(runs) <= len(columns) * max(columns) + CALL  # all in one
    assert cost_of(runs) <= sum(columns) + CALL * len(columns)  # each alone
    for one, other in pairwise(runs):
        together = Run(one.first, other.last, max(one.columns, other.columns))
        assert cost_of([one, other]) <= cost_of([together])


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=7))
def test_no_dealing_is_cheaper(columns: list[int]) -> None:
    lanes = len(columns)
    dealings = (
        [Run(*ends, max(columns[slice(*ends)])) for ends in pairwise([0, *cuts, lanes])]
        for number in range(lanes)
        for cuts in combinations(range(1, lanes), number)
    )
    assert cost_of(runs_of(columns)) == min(map(cost_of, dealings))


def test_every_layer_gives_way_to_who_wants_a_core(
    lm: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = 0

    def give_way() -> None:
        nonlocal layers
        layers += 1

    monkeypatch.setattr(flat_attention.CORES, "give_way", give_way)
    Rows(lm).extend([7])
    assert layers == lm.config.num_hidden_layers
