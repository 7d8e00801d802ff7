"""The next token of every row: the likeliest one, or one drawn by the row's own generator.

Symbols: B = rows, S = those that draw, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

NONE = -1
"""In place of a token, where the logits are not numbers."""


class Draw:
    """How one row draws. From its own generator, so that it does not depend on its neighbours."""

    def __init__(self, temperature: float, seed: int | None, device: torch.device) -> None:
        """``temperature`` is above 0; ``seed`` None: another one each time. The same seed draws
        the same on the same kind of device only."""
        self.temperature = temperature
        self._random = torch.Generator(device)
        if seed is None:
            self._random.seed()
        else:
            self._random.manual_seed(seed)

    def arrivals(self, number: int) -> torch.Tensor:
        """(number,) float32 exponential times: divided by its rate, the first one is a sample."""
        times = torch.empty(number, device=self._random.device)
        return times.exponential_(generator=self._random)


def next_tokens(logits: torch.Tensor, draws: Sequence[Draw | None]) -> list[int]:
    """B tokens, or ``NONE``, from (B, V) logits. Waits for the device once for all of them."""
    best, tokens = logits.max(dim=-1)  # (B,)
    drawing = {row: draw for row, draw in enumerate(draws) if draw is not None}
    if drawing:
        rows = list(drawing)
        heat = torch.tensor([[draw.temperature] for draw in drawing.values()], device=logits.device)
        rates = (logits[rows].float() / heat).softmax(dim=-1)  # (S, V)
        times = torch.stack([draw.arrivals(logits.shape[-1]) for draw in drawing.values()])
        tokens[rows] = (rates / times).argmax(dim=-1)
    return tokens.masked_fill(best.isnan(), NONE).tolist()
