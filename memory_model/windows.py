"""Dealing the tokens of a passage out over its slots: windows of like information.

A window of "of the" costs a reader nothing to tell apart, one of two rare names costs it both. So
a passage is cut where the windows' shares of its information are as even as they can be: cuts
that minimise the sum of squares of what each window holds, found by dynamic programming. What a
token holds is -log of its frequency in the training texts. (What that is worth, and from which m
on: experiments/LOG.md.)

Symbols: B = batch, L = tokens, m = slots.
"""

from __future__ import annotations

import torch
from torch.nn import functional

LONGEST = 4
"""A window has at most so many times the tokens of an even one; without a bound, cubic time."""


def window_weights(
    information: torch.Tensor,
    mask: torch.Tensor,
    slots: int | torch.Tensor,
    scores: torch.Tensor | None = None,
) -> torch.Tensor:
    """Averaging weights that deal L tokens out over m windows, in order.

    A passage shorter than m tokens repeats tokens, so that every slot is filled.

    Args:
        information: (B, L) of each token, not negative; all alike = even windows. Padding's is
            ignored.
        mask: (B, L) bool, right-padded, at least one token a row.
        slots: m, or (B,) a number for each row; windows beyond a row's own are zero.
        scores: (B, L, 1); a window's weights are their softmax. None = all alike.

    Returns: (B, m, L), each row of windows summing to one.
    """
    lengths = mask.sum(dim=1)  # (B,)
    number = torch.as_tensor(slots, device=mask.device).expand_as(lengths)  # (B,)
    slot = torch.arange(int(number.max()), device=mask.device)
    start = slot * lengths[:, None] // number[:, None]  # (B, m), of even windows
    end = torch.maximum((slot + 1) * lengths[:, None] // number[:, None], start + 1)
    alike = ((information == information[:, :1]) | ~mask).all(dim=1)  # (B,)
    even = (alike | (lengths <= number))[:, None]  # no cuts are better
    if not even.all():
        cuts = _ends((information * mask).double(), lengths, number)  # (B, m)
        start = torch.where(even, start, functional.pad(cuts, (1, -1)))
        end = torch.where(even, end, cuts)
    position = torch.arange(mask.shape[1], device=mask.device)
    inside = (position >= start[..., None]) & (position < end[..., None])  # (B, m, L)
    own = (slot < number[:, None])[..., None]  # (B, m, 1)
    if scores is None:
        scores = torch.zeros_like(mask, dtype=torch.float32)[..., None]
    lowest = torch.finfo(scores.dtype).min
    weights = torch.where(inside, scores.mT, lowest).softmax(dim=-1)  # (B, m, L)
    return weights * own


def _ends(information: torch.Tensor, lengths: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
    """Where each window ends, exclusive; of rows with m >= L nothing. (B, L), … -> (B, m)"""
    rows, length = information.shape
    device = information.device
    most = int(number.max())
    longest = LONGEST * -(-lengths // number)  # (B,): a row's own, whatever it is batched with
    before = torch.zeros(rows, length + 1, dtype=torch.double, device=device)
    before[:, 1:] = information.cumsum(dim=1)  # held by the first t tokens, t = 0 … L
    width = torch.arange(1, min(length, int(longest.max())) + 1, device=device)  # (W,)
    origin = torch.arange(length + 1, device=device)[:, None] - width  # (L + 1, W) where it began
    possible = (origin >= 0) & (width <= longest[:, None, None])  # (B, L + 1, W)
    origin = origin.clamp(min=0)
    held = (before[..., None] - before[:, origin]).square()  # (B, L + 1, W)
    held = torch.where(possible, held, torch.inf)
    cost = torch.full_like(before, torch.inf)
    cost[:, 0] = 0.0  # of the first t tokens in s windows, s = 0
    shape = (most, rows, length + 1)
    widths = torch.empty(shape, dtype=torch.long, device=device)  # of the last of s windows
    for s in range(most):
        cost, best = (cost[:, origin] + held).min(dim=-1)  # (B, L + 1)
        widths[s] = best + 1
    ends = torch.zeros(rows, most, dtype=torch.long, device=device)
    row, end = torch.arange(rows, device=device), lengths.clone()
    for s in reversed(range(most)):
        inside = s < number
        ends[:, s] = end
        end = torch.where(inside, end - widths[s, row, end], end).clamp(min=0)
    return ends
