"""Keys and values of the running batch, at addresses that stay: a lane for each row.

A row is written into its lane once, when it joins, and one that leaves makes room for another. What
else runs is neither copied nor moved, and a recorded step finds it where it was.
Position p of a row is column p of its lane. Symbols: N = lanes in use, T = positions of a prompt,
C = columns that a step looks at.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import Cache, DynamicCache, PretrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicLayer

KEPT_POSITIONS = 1 << 14  # 2 GiB of Llama-3.1-8B


class LaneLayer(DynamicLayer):  # type: ignore[misc]  # transformers is untyped
    """``keys`` and ``values``: (N, heads, C, head_dim), the part of the buffers that is in use."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """For rows like these, (·, heads, ·, head_dim); without room for any yet."""
        super().__init__()
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True
        self._buffers = [part[:0, :, :0] for part in (keys, values)]

    @property
    def room(self) -> tuple[int, int]:
        """(lanes, columns)"""
        lanes, _heads, columns, _head_dim = self._buffers[0].shape
        return lanes, columns

    @property
    def is_small(self) -> bool:
        """An idle batch may keep it, for what was recorded on it."""
        lanes, columns = self.room
        return lanes * columns <= KEPT_POSITIONS

    def make_room(self, lanes: int, columns: int) -> None:
        """Have buffers of this size, with what is in the lanes of the present ones."""
        # the last step's parts would keep the old buffers of all layers
        self.keys = self.values = self._buffers[0].new_empty(0)
        self._buffers = [_resized(buffer, lanes, columns) for buffer in self._buffers]

    def fill(self, first: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Put rows, each (N, heads, T, head_dim), into the lanes from ``first`` on."""
        for buffer, part in zip(self._buffers, (keys, values), strict=True):
            buffer[first : first + len(part), :, : part.shape[2]] = part

    def move(self, sources: Sequence[int], targets: Sequence[int], columns: int) -> None:
        """Copy lanes over others, of which none is a source."""
        for buffer in self._buffers:
            for source, target in zip(sources, targets, strict=True):
                buffer[target, :, :columns] = buffer[source, :, :columns]

    def clear(self, first: int, last: int, columns: int) -> None:
        """Nothing that a row left, which may be NaN, is for the next one in its lane: 0 x NaN, the
        weight of what is masked by the value, is NaN."""
        for buffer in self._buffers:
            buffer[first:last, :, :columns] = 0

    def show(self, lanes: torch.Tensor, lengths: torch.Tensor | None, columns: int) -> None:
        """Before a step: ``lanes`` are 0 … N - 1, in each ``lengths`` (N,) columns filled, fewer
        than ``columns``; None: one fewer in every lane."""
        self.keys, self.values = (buffer[: len(lanes), :, :columns] for buffer in self._buffers)
        self._lanes, self._lengths = lanes, lengths

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append a position, (N, heads, 1, head_dim), to every lane."""
        if self._lengths is None:
            self.keys[:, :, -1:] = key_states
            self.values[:, :, -1:] = value_states
        else:
            self.keys[self._lanes, :, self._lengths] = key_states[:, :, 0]
            self.values[self._lanes, :, self._lengths] = value_states[:, :, 0]
        return self.keys, self.values


def empty_lanes(config: PretrainedConfig, dtype: torch.dtype) -> Cache:
    """A cache for a model on the CPU whose layers are all alike, without room for any row yet."""
    nothing = torch.empty(0, config.num_key_value_heads, 0, config.head_dim, dtype=dtype)
    return Cache(layers=[LaneLayer(nothing, nothing) for _ in range(config.num_hidden_layers)])


def lanes_like(prefilled: Cache) -> Cache:
    """A cache for rows such as these, without room for any yet."""
    return Cache(layers=[LaneLayer(layer.keys, layer.values) for layer in prefilled.layers])


def bytes_per_position(lm: PreTrainedModel) -> int:
    """Of one row, all layers together."""
    embeds = lm.get_input_embeddings()(torch.zeros(1, 1, dtype=torch.long, device=lm.device))
    cache = lm(inputs_embeds=embeds, past_key_values=empty(), use_cache=True).past_key_values
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


def empty() -> DynamicCache:
    """For a prefill. Without the model's config, so that sliding-window layers keep all positions:
    the window is applied by the attention mask."""
    return DynamicCache()


def _resized(old: torch.Tensor, lanes: int, columns: int) -> torch.Tensor:
    # zeros, not empty: see ``clear``
    new = old.new_zeros(lanes, old.shape[1], columns, old.shape[3])
    lanes, columns = min(old.shape[0], lanes), min(old.shape[2], columns)
    new[:lanes, :, :columns] = old[:lanes, :, :columns]
    return new
