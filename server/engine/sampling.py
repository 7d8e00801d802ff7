"""The next token of every row: the likeliest one, or one drawn with the row's own random numbers.

A draw takes one number and looks up where it falls among the summed chances (inverse transform
sampling), instead of one for every token of the vocabulary.

Symbols: B = rows, S = those that draw, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

NONE = -1
"""In place of a token, where the logits are not numbers."""


class Draw:
    """How one row draws: a seed gives the same numbers on every device and in any company."""

    def __init__(self, temperature: float, seed: int | None) -> None:
        """``temperature`` is above 0; ``seed`` None: another one each time."""
        self.temperature = temperature
        self._random = torch.Generator()
        if seed is None:
            self._random.seed()
        else:
            self._random.manual_seed(seed)

    def number(self) -> float:
        """The next one, from 0 up to but not including 1."""
        return float(torch.rand((), dtype=torch.float64, generator=self._random))


def next_tokens(logits: torch.Tensor, draws: Sequence[Draw | None]) -> list[int]:
    """B tokens, or ``NONE``, from (B, V) logits; a row without a draw takes the likeliest."""
    best, tokens = logits.max(dim=-1)  # (B,)
    drawing = {row: draw for row, draw in enumerate(draws) if draw is not None}
    if drawing:
        rows = list(drawing)
        given = [(draw.temperature, draw.number()) for draw in drawing.values()]
        heat, place = torch.tensor(given, dtype=torch.float64, device=logits.device).T[..., None]
        chances = (logits[rows].float() / heat.float()).softmax(dim=-1)  # (S, V)
        below = chances.cumsum(dim=-1, dtype=torch.float64)  # (S, V)
        drawn = torch.searchsorted(below, place * below[:, -1:], right=True)[:, 0]  # (S,)
        tokens[rows] = drawn.clamp(max=logits.shape[-1] - 1)
    return tokens.masked_fill(best.isnan(), NONE).tolist()
