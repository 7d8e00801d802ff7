"""The next tokens: likeliest or drawn, each row as if it were alone."""

from __future__ import annotations

import pytest
import torch

from server.engine.sampling import NONE, Draw, next_tokens

LOGITS = torch.tensor([[0.0, 2.0, 1.0, -torch.inf], [3.0, 0.0, 0.0, 0.0], [1.0, 1.5, 1.0, 1.0]])


def test_without_a_draw_the_likeliest_token_is_next() -> None:
    assert next_tokens(LOGITS, [None, None, None]) == [1, 0, 1]


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    count = 4000
    row = torch.tensor([0.0, 1.0, 2.0, -torch.inf])
    one = Draw(2.0, seed=0)  # goes on: one row's draws, one after the other
    tokens = [next_tokens(row[None], [one])[0] for _ in range(count)]
    seen = torch.bincount(torch.tensor(tokens), minlength=4) / count
    torch.testing.assert_close(seen, (row / 2.0).softmax(-1), atol=0.03, rtol=0.0)


def test_a_row_draws_the_same_alone_and_among_others() -> None:
    for seed in range(20):
        company = [Draw(0.5, seed + 1), None, Draw(1.5, seed)]
        alone = [Draw(1.5, seed)]
        for _ in range(3):
            tokens = next_tokens(LOGITS, company)
            assert tokens[1] == 0
            assert tokens[2:] == next_tokens(LOGITS[2:], alone)


@pytest.mark.parametrize("number", [0.0, 1.0 - 2.0**-53])
def test_what_cannot_be_is_not_drawn(number: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Draw, "number", lambda _draw: number)
    row = torch.full((1, 1000), -torch.inf)
    row[0, 300:600] = 1.0
    assert next_tokens(row, [Draw(1.0, seed=0)]) == [300 if number == 0.0 else 599]


def test_without_a_seed_draws_differ() -> None:
    row = torch.zeros(1, 1 << 16)
    assert next_tokens(row, [Draw(1.0, None)]) != next_tokens(row, [Draw(1.0, None)])


def test_logits_that_are_not_numbers_give_no_token_and_leave_the_others_alone() -> None:
    logits = LOGITS.clone()
    logits[1, 2] = torch.nan
    assert next_tokens(logits, [None, None, Draw(1e-4, 0)]) == [1, NONE, 1]
    assert next_tokens(logits, [None, Draw(1.0, 0), None]) == [1, NONE, 1]
