"""Attention of running rows and of new prompts whose positions one forward computes side by side.

Every weight is read once for a token of each row and for the prompts of who joins (Yu et al. 2022,
Orca: selective batching; Agrawal et al. 2023, arXiv 2308.16369: decodes piggyback on prefills).
Nothing is padded but in runs: neighbouring lanes of like length are one call, others calls of their
own, since a call costs no more than looking at a few columns in vain (experiments/LOG.md).

Symbols: R = running rows, by lane; N = prompts; S = all positions that are computed, first a token
of each running row, then the prompts; T = those of a prompt, P = of the prefix before it; q, k =
query heads, key heads; e = a head's size; C = columns of the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention

from server.engine.cached_prefix import CachedPrefix, attend_causally
from server.engine.cores import CORES
from server.engine.kv_cache import LaneLayer

CALL = 150
"""Columns of a row that take as long as a call of their own: measured on two cores."""


class Run(NamedTuple):
    """Lanes ``first`` to ``last`` - 1, which look at so many columns."""

    first: int
    last: int
    columns: int


class FlatAttention:
    """Of one forward: puts keys and values into the cache, and looks at what is there."""

    def __init__(
        self,
        layers: Sequence[LaneLayer],
        lengths: Sequence[int],
        prompts: Sequence[int],
        first_lane: int,
        prefixes: Sequence[CachedPrefix | None],
    ) -> None:
        """
        Args:
            layers: of the cache, with room for all.
            lengths: (R,) columns that are filled in lanes 0 … R - 1; none if no row goes on.
            prompts: (N,) positions of each that are computed.
            first_lane: of the prompts, which take one each.
            prefixes: (N,) what is in front of them without being computed.
        """
        self._layers = layers
        self._rows = len(lengths)
        ends = accumulate(prompts, initial=self._rows)
        parts = [slice(*bounds) for bounds in pairwise(ends)]
        self._prompts = list(enumerate(zip(parts, prefixes, strict=True), first_lane))
        self._runs: list[tuple[Run, torch.Tensor | None]] = []
        if lengths:
            ragged = min(lengths) < max(lengths)
            filled = torch.tensor(lengths) if ragged else None
            lanes = torch.arange(self._rows)
            for layer in layers:
                layer.show(lanes, filled, max(lengths) + 1)
            self._runs = [
                (run, _mask(lengths[run.first : run.last], run.columns, layers[0].dtype))
                for run in runs_of([length + 1 for length in lengths])
            ]

    def __call__(
        self, number: int, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        """Queries (1, q, S, e), keys and values (1, k, S, e) of layer ``number`` -> (1, S, q, e)"""
        CORES.give_way()
        layer = self._layers[number]
        attended = []
        if self._rows:
            attended += self._decode(layer, queries, keys, values)
        for lane, (part, prefix) in self._prompts:
            seen = keys[:, :, part], values[:, :, part]  # (1, k, T, e)
            if prefix is not None:
                seen = prefix.before(number, *seen)  # (1, k, P + T, e)
            layer.fill(lane, *seen)
            attended.append(attend_causally(queries[:, :, part], *seen)[0])  # (T, q, e)
        return torch.cat(attended)[None]

    def _decode(
        self, layer: LaneLayer, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> list[torch.Tensor]:
        """(r, q, e) of each run"""
        new = [part[0, :, : self._rows].transpose(0, 1) for part in (keys, values)]  # (R, k, e)
        cached = layer.update(*(part[:, :, None] for part in new))  # (R, k, C, e)
        heads = queries[0, :, : self._rows].transpose(0, 1)  # (R, q, e)
        # query heads that share a key head are rows of one product
        shared = heads.reshape(self._rows, keys.shape[1], -1, heads.shape[-1])  # (R, k, q / k, e)
        attended = []
        for (first, last, columns), mask in self._runs:
            run_keys, run_values = (part[first:last, :, :columns] for part in cached)
            run = scaled_dot_product_attention(
                shared[first:last], run_keys, run_values, attn_mask=mask
            )
            attended.append(run.flatten(1, 2))
        return attended


def runs_of(columns: Sequence[int]) -> list[Run]:
    """Lanes that look at so many columns each, (R,), dealt out so that all runs together, each
    padded to its longest lane, cost least (dynamic programming)."""
    best: list[tuple[int, Run | None]] = [(0, None)]  # cost of the first lanes, their last run
    for last in range(1, len(columns) + 1):
        widest, choices = 0, []
        for first in reversed(range(last)):
            widest = max(widest, columns[first])
            cost = best[first][0] + (last - first) * widest + CALL
            choices.append((cost, Run(first, last, widest)))
        best.append(min(choices))
    runs = []
    run = best[-1][1]
    while run is not None:
        runs.append(run)
        run = best[run.first][1]
    return runs[::-1]


def _mask(lengths: Sequence[int], columns: int, dtype: torch.dtype) -> torch.Tensor | None:
    """(r, 1, 1, C): -inf behind the token after ``lengths`` (r,); None if there is nothing."""
    if min(lengths) == columns - 1:
        return None
    behind = torch.arange(columns) > torch.tensor(lengths)[:, None, None, None]
    return torch.zeros(behind.shape, dtype=dtype).masked_fill(behind, -torch.inf)
