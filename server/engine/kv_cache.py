"""Key/value layers of the running batch: rows come and go, positions are appended in place.

Symbols: B = rows, S = positions cached so far, left padding included. Rows are aligned at the
right, so that the next position is the same column for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

ROOM = 64
"""Positions allocated ahead. A plain DynamicCache copies all of S at every step instead."""


class BufferedLayer(DynamicLayer):  # type: ignore[misc]  # transformers is untyped
    """``keys`` and ``values``: (B, heads, S, head_dim), views of buffers with spare positions."""

    def __init__(self, keys: Sequence[torch.Tensor], values: Sequence[torch.Tensor]) -> None:
        """Stack groups of rows, each (B_i, heads, S_i, head_dim), to a length of max S_i."""
        super().__init__()
        self.dtype, self.device = keys[0].dtype, keys[0].device
        length = max(part.shape[-2] for part in keys)
        self._key_buffer = _right_aligned(keys, length)
        self._value_buffer = _right_aligned(values, length)
        self._show(length)
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        start = self.keys.shape[-2]
        end = start + key_states.shape[-2]
        if end > self._key_buffer.shape[-2]:
            self._key_buffer = _right_aligned([self.keys], start, room=end - start + ROOM)
            self._value_buffer = _right_aligned([self.values], start, room=end - start + ROOM)
        self._key_buffer[:, :, start:end] = key_states
        self._value_buffer[:, :, start:end] = value_states
        self._show(end)
        return self.keys, self.values

    def _show(self, length: int) -> None:
        self.keys = self._key_buffer[:, :, :length]
        self.values = self._value_buffer[:, :, :length]


def stacked(caches: Sequence[Cache]) -> Cache:
    """One cache with the rows of all ``caches``, aligned at the right."""
    return Cache(
        layers=[
            BufferedLayer([layer.keys for layer in layers], [layer.values for layer in layers])
            for layers in zip(*(cache.layers for cache in caches), strict=True)
        ]
    )


def selected(cache: Cache, rows: Sequence[int], trim: int) -> Cache:
    """A cache of some rows without the first ``trim`` positions (padding of all of them)."""
    index = torch.tensor(rows, device=cache.layers[0].keys.device)
    return Cache(
        layers=[
            BufferedLayer([layer.keys[index, :, trim:]], [layer.values[index, :, trim:]])
            for layer in cache.layers
        ]
    )


def empty() -> DynamicCache:
    """Without the model's config, so that sliding-window layers keep all positions as well:
    the window is applied by the attention mask, and rows stay aligned in every layer.
    """
    return DynamicCache()


def _right_aligned(parts: Sequence[torch.Tensor], length: int, room: int = ROOM) -> torch.Tensor:
    """Returns: (sum of B_i, heads, length + room, head_dim)."""
    rows = sum(part.shape[0] for part in parts)
    _, heads, _, head_dim = parts[0].shape
    # Zeros, not empty: padding has attention weight 0, and 0 x NaN would still be NaN.
    buffer = parts[0].new_zeros(rows, heads, length + room, head_dim)
    first = 0
    for part in parts:
        last = first + part.shape[0]
        buffer[first:last, :, length - part.shape[-2] : length] = part
        first = last
    return buffer
