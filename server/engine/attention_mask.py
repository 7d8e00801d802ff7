"""What each row of a decode step may look at. Symbols: B = rows, C = columns of the cache."""

from __future__ import annotations

import torch
from transformers import PretrainedConfig

FULL, SLIDING = "full_attention", "sliding_attention"  # transformers' names of kinds of layers

Mask = torch.Tensor | dict[str, torch.Tensor]


def decode_mask(
    config: PretrainedConfig, lengths: torch.Tensor, columns: int, dtype: torch.dtype
) -> Mask:
    """0 where the token that comes after ``lengths`` (B,) positions looks, at them and itself and
    within the window of layers that have one; -inf elsewhere.

    Numbers, since a mask of booleans is made into them in every layer.

    Returns: (B, 1, 1, C); of a model with layers of both kinds one each, by transformers' names.
    """
    column = torch.arange(columns, device=lengths.device)
    own = lengths[:, None, None, None]  # (B, 1, 1, 1)
    behind = column > own  # (B, 1, 1, C)
    everything = torch.zeros_like(behind, dtype=dtype).masked_fill(behind, -torch.inf)
    window = sliding_window(config)
    if window is None:
        return everything
    near = everything.masked_fill(column <= own - window, -torch.inf)
    return {FULL: everything, SLIDING: near} if FULL in _kinds(config) else near


def sliding_window(config: PretrainedConfig) -> int | None:
    """Positions that the layers which do not see all of them look back; None: all see all."""
    window: int | None = getattr(config, "sliding_window", None)
    return window if SLIDING in (_kinds(config) or [SLIDING]) else None


def _kinds(config: PretrainedConfig) -> list[str]:
    """Of the layers; a model of one kind need not say."""
    return getattr(config, "layer_types", None) or []
