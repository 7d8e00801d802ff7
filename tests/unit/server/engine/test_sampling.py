"""The next tokens: likeliest or drawn, each row as if it were alone."""

from __future__ import annotations

import torch

from server.engine.sampling import NONE, Draw, next_tokens

CPU = torch.device("cpu")
LOGITS = torch.tensor([[0.0, 2.0, 1.0, -torch.inf], [3.0, 0.0, 0.0, 0.0], [1.0, 1.5, 1.0, 1.0]])


def draw(temperature: float, seed: int | None = 0) -> Draw:
    return Draw(temperature, seed, CPU)


def test_without_a_draw_the_likeliest_token_is_next() -> None:
    assert next_tokens(LOGITS, [None, None, None]) == [1, 0, 1]


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    count = 4000
    row = torch.tensor([0.0, 1.0, 2.0, -torch.inf])
    one = draw(2.0)  # goes on: one row's draws, one after the other
    tokens = [next_tokens(row[None], [one])[0] for _ in range(count)]
    seen = torch.bincount(torch.tensor(tokens), minlength=4) / count
    torch.testing.assert_close(seen, (row / 2.0).softmax(-1), atol=0.03, rtol=0.0)


def test_a_row_draws_the_same_alone_and_among_others_as_multinomial_would() -> None:
    for seed in range(20):
        company = next_tokens(LOGITS, [draw(0.5, seed + 1), None, draw(1.5, seed)])
        [alone] = next_tokens(LOGITS[2:], [draw(1.5, seed)])
        random = torch.Generator().manual_seed(seed)
        reference = torch.multinomial((LOGITS[2] / 1.5).softmax(-1), 1, generator=random)
        assert company[2] == alone == int(reference)
        assert company[1] == 0


def test_without_a_seed_draws_differ() -> None:
    row = torch.zeros(1, 1 << 16)
    assert next_tokens(row, [draw(1.0, None)]) != next_tokens(row, [draw(1.0, None)])


def test_logits_that_are_not_numbers_give_no_token_and_leave_the_others_alone() -> None:
    logits = LOGITS.clone()
    logits[1, 2] = torch.nan
    assert next_tokens(logits, [None, None, draw(1e-4)]) == [1, NONE, 1]
    assert next_tokens(logits, [None, draw(1.0), None]) == [1, NONE, 1]
