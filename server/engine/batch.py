"""The running batch: rows of different lengths that one forward pass extends together.

Rows join and leave between steps. Each row sees exactly what it would see alone: it stands at the
left of its lane of the cache, and what is behind its end is masked. A packed model computes new
prompts and a token of each row in one forward.
Symbols: B = rows, N = those that join, T = positions of a prompt, C = columns a step looks at,
V = vocabulary, h = hidden size.
"""

from __future__ import annotations

import math
import sys
from bisect import bisect_left
from collections.abc import Sequence
from functools import partial
from itertools import accumulate, chain

import torch
from torch.nn.functional import pad
from transformers import Cache, PreTrainedModel

from memory_model.packed_llama import PackedLlama
from memory_model.recording import Recording, graph_pool, power_of_two
from server.engine import kv_cache
from server.engine.attention_mask import decode_mask, sliding_window
from server.engine.cached_prefix import CachedPrefix
from server.engine.flat_attention import FlatAttention

FEWEST_COLUMNS = 128
RECORDED_PREFILLS = (*range(64, 512, 64), *range(512, 1025, 128))
"""Positions; five passages as text are 600. Longer prompts are launched kernel by kernel: each size
keeps its keys and values, 0.7 GiB of Llama-3.1-8B all together."""


class Batch:
    """Owns the key/value cache. Not thread-safe; call it under ``torch.inference_mode``.

    After an exception in ``step`` the cache may be half written: discard the batch.
    """

    def __init__(
        self,
        lm: PreTrainedModel,
        *,
        recorded: bool = False,
        most_positions: int = sys.maxsize,
        prefix: CachedPrefix | None = None,
    ) -> None:
        """
        Args:
            recorded: steps, and prefills of one short prompt, are recorded for a few sizes and
                replayed; a step then computes a power of two of rows and of columns.
            most_positions: of the cache, while rows join that fit (:meth:`fits`).
            prefix: is not computed where a prompt begins with it; of a batch that mixes.
        """
        self._lm = lm
        self._config = lm.config.get_text_config()
        self._recorded = recorded
        self._most_positions = most_positions
        self._prefix = prefix
        # rows of one length need a mask for a window; and with one transformers lets query heads
        # that share keys look at them together, where what torch does without one takes six times
        # as long: in bf16 on a CPU (LOG.md)
        self._masks_all = sliding_window(self._config) is not None or (
            lm.device.type == "cpu" and lm.dtype is torch.bfloat16
        )
        self.mixes = not recorded and isinstance(lm.base_model, PackedLlama)
        """Present rows may go on in the forward of a prefill."""
        self._pool = graph_pool(lm.device) if recorded else None
        self._prefills: dict[int, Recording[tuple[torch.Tensor, Cache]]] = {}  # by T
        self._steps: dict[tuple[int, int], Recording[torch.Tensor]] = {}  # by (lanes, C)
        self._cache: Cache | None = None
        self._lanes: list[int] = []  # of each row; together 0 … B - 1
        self._lengths: list[int] = []  # positions of each row

    def __len__(self) -> int:
        return len(self._lengths)

    def fits(self, rows: int, columns: int) -> bool:
        """Whether there may be so many rows, the longest of so many positions at its end. One row
        alone always may: what it needs is the model's context at most."""
        return rows == 1 or math.prod(_room_for(rows, columns)) <= self._most_positions

    def prefilled(self, lengths: Sequence[int]) -> int:
        """Positions that are computed for prompts of these lengths together, a known prefix too."""
        return sum(lengths) if self.mixes else max(lengths) * len(lengths)

    def record(self, rows: int) -> None:
        """Record now what up to ``rows`` short requests need; else they wait for it when they come.
        Only for an empty batch that records."""
        hidden, device = self._config.hidden_size, self._lm.device
        for size in RECORDED_PREFILLS:
            prompt = torch.zeros(1, size, hidden, device=device, dtype=self._lm.dtype)
            ends = torch.tensor([size - 1], device=device)
            _, prefilled = self._prefill(prompt, ends)
        most = min(kv_cache.KEPT_POSITIONS, self._most_positions)
        lanes, columns = power_of_two(rows), FEWEST_COLUMNS
        while lanes > 1 and lanes * columns > most:
            lanes //= 2
        while 2 * lanes * columns <= most:
            columns *= 2
        self._cache = kv_cache.lanes_like(prefilled)
        self._make_room(self._cache, lanes, columns)
        while columns >= FEWEST_COLUMNS:
            for power in range(lanes.bit_length()):
                self._decode(torch.zeros(2, 1 << power, dtype=torch.long, device=device), columns)
            columns //= 2

    def join(self, prompts: Sequence[torch.Tensor], tokens: Sequence[int] = ()) -> torch.Tensor:
        """Prefill new rows and append them after the present ones.

        Args:
            prompts: of N rows, each (T_i, h).
            tokens: the next one of every present row, which thus goes on in the same forward. Only
                where the batch ``mixes``; none = they wait.

        Returns: (N, V) logits of the new rows' next tokens, after those of rows that went on.
        Raises: whatever the model does; the present rows are then as they were.
        """
        if self.mixes:
            return self._extend(prompts, tokens)
        lengths = [len(prompt) for prompt in prompts]
        ends = sorted(set(lengths))
        # padding comes after what it could disturb, so that attention needs no mask
        embeds = torch.stack([pad(prompt, (0, 0, 0, ends[-1] - len(prompt))) for prompt in prompts])
        logits, prefilled = self._prefill(embeds, torch.tensor(ends, device=embeds.device) - 1)
        first = len(self)
        cache = self._cache or kv_cache.lanes_like(prefilled)
        self._make_room(cache, first + len(prompts), max([ends[-1], *self._lengths]))
        for layer, new in zip(cache.layers, prefilled.layers, strict=True):
            layer.fill(first, new.keys[:, :, : ends[-1]], new.values[:, :, : ends[-1]])
        self._cache = cache
        self._lanes += range(first, first + len(prompts))
        self._lengths += lengths
        return logits[list(range(len(prompts))), [ends.index(length) for length in lengths]]

    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        """Append one token to every row. Returns: (B, V) logits of the next ones."""
        if self.mixes:
            return self._extend((), tokens)
        assert self._cache is not None, "no row has joined"
        lanes, columns = len(self), max(self._lengths) + 1
        self._make_room(self._cache, lanes, columns)
        if self._recorded:
            lanes, columns = _room_for(lanes, columns)
        given = [[0] * lanes, [0] * lanes]  # token and length of each lane; without a row 0, 0
        for lane, token, length in zip(self._lanes, tokens, self._lengths, strict=True):
            given[0][lane], given[1][lane] = token, length
        logits = self._decode(torch.tensor(given, device=self._lm.device), columns)
        self._lengths = [length + 1 for length in self._lengths]
        return logits[self._lanes]  # a copy: the next step overwrites what was recorded

    def keep(self, rows: Sequence[int]) -> None:
        """Drop every other row."""
        if self._cache is None:
            return
        before, columns = len(self), max(self._lengths, default=0)
        self._lengths = [self._lengths[row] for row in rows]
        lanes = [self._lanes[row] for row in rows]
        # rows that stand behind where B lanes end move into the gaps before
        gaps = sorted(set(range(len(rows))) - set(lanes))
        movers = [lane for lane in lanes if lane >= len(rows)]
        moved = dict(zip(movers, gaps, strict=True))
        self._lanes = [moved.get(lane, lane) for lane in lanes]
        if rows or (self._recorded and self._cache.layers[0].is_small):
            for layer in self._cache.layers:
                layer.move(movers, gaps, columns)
                layer.clear(len(rows), before, columns)
        else:
            self._cache = None
            self._steps.clear()

    def _extend(self, prompts: Sequence[torch.Tensor], tokens: Sequence[int]) -> torch.Tensor:
        """:meth:`join` and :meth:`step` of a batch that mixes. No tokens: the present rows wait."""
        present, lengths = len(self), [len(prompt) for prompt in prompts]
        cache = self._cache = self._cache or kv_cache.empty_lanes(self._config, self._lm.dtype)
        longest = max([*lengths, *(length + bool(tokens) for length in self._lengths)])
        self._make_room(cache, present + len(prompts), longest)
        by_lane = sorted(range(len(tokens)), key=self._lanes.__getitem__)
        filled = [self._lengths[row] for row in by_lane]
        given = torch.tensor([tokens[row] for row in by_lane], dtype=torch.long)
        known = [self._prefix.length_in(prompt) if self._prefix else 0 for prompt in prompts]
        computed = [length - first for length, first in zip(lengths, known, strict=True)]
        rest = [prompt[first:] for prompt, first in zip(prompts, known, strict=True)]
        embeds = torch.cat([self._lm.get_input_embeddings()(given), *rest])  # (S, h)
        positions = [*filled, *chain.from_iterable(map(range, known, lengths))]
        ends = accumulate([1] * len(filled) + computed)
        try:
            logits: torch.Tensor = self._lm(
                inputs_embeds=embeds[None],
                position_ids=torch.tensor([positions]),
                attend=FlatAttention(
                    cache.layers,
                    filled,
                    computed,
                    present,
                    [self._prefix if first else None for first in known],
                ),
                logits_to_keep=torch.tensor(list(ends)) - 1,
            ).logits[0]
        except Exception:
            for layer in cache.layers:
                layer.clear(present, present + len(prompts), longest)
            raise
        order = [*self._lanes[: len(filled)], *range(len(filled), len(logits))]
        if filled:
            self._lengths = [length + 1 for length in self._lengths]
        self._lanes += range(present, present + len(prompts))
        self._lengths += lengths
        return logits[order]

    def _prefill(self, embeds: torch.Tensor, ends: torch.Tensor) -> tuple[torch.Tensor, Cache]:
        """``embeds``: (N, T, h). Returns: (N, E, V) logits at ``ends`` (E,); the keys and values,
        with positions added at the end where it is recorded."""

        def work(embeds: torch.Tensor, ends: torch.Tensor) -> tuple[torch.Tensor, Cache]:
            output = self._lm(
                inputs_embeds=embeds,
                past_key_values=kv_cache.empty(),
                use_cache=True,
                logits_to_keep=ends,
            )
            return output.logits, output.past_key_values

        rows, length, _ = embeds.shape
        if not self._recorded or rows > 1 or length > RECORDED_PREFILLS[-1]:
            return work(embeds, ends)
        size = RECORDED_PREFILLS[bisect_left(RECORDED_PREFILLS, length)]
        embeds = pad(embeds, (0, 0, 0, size - length))
        if size not in self._prefills:
            self._prefills[size] = Recording(work, embeds, ends, pool=self._pool)
        return self._prefills[size](embeds, ends)

    def _decode(self, given: torch.Tensor, columns: int) -> torch.Tensor:
        """``given``: (2, lanes) tokens and lengths. Returns: (lanes, V)."""
        if not self._recorded:
            ragged = min(self._lengths) < columns - 1
            return self._forward(given, columns=columns, ragged=ragged)
        size = given.shape[1], columns
        if size not in self._steps:
            work = partial(self._forward, columns=columns, ragged=True)
            self._steps[size] = Recording(work, given, pool=self._pool)
        return self._steps[size](given)

    def _forward(self, given: torch.Tensor, *, columns: int, ragged: bool) -> torch.Tensor:
        assert self._cache is not None
        tokens, lengths = given
        lanes = torch.arange(len(tokens), device=given.device)
        for layer in self._cache.layers:
            layer.show(lanes, lengths if ragged else None, columns)
        mask = None
        if ragged or self._masks_all:
            mask = decode_mask(self._config, lengths, columns, self._lm.dtype)
        output = self._lm(
            input_ids=tokens[:, None],
            attention_mask=mask,
            position_ids=lengths[:, None],
            past_key_values=self._cache,
            use_cache=True,
        )
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def _make_room(self, cache: Cache, lanes: int, columns: int) -> None:
        has = cache.layers[-1].room  # of the last: memory may have run out on the way to it
        if lanes <= has[0] and columns <= has[1]:
            return
        self._steps.clear()  # they know the old addresses
        needed = _room_for(lanes, columns)
        both = max(has[0], needed[0]), max(has[1], needed[1])
        room = both if math.prod(both) <= self._most_positions else needed
        for layer in cache.layers:
            layer.make_room(*room)


def _room_for(rows: int, columns: int) -> tuple[int, int]:
    """(lanes, columns)"""
    return power_of_two(rows), power_of_two(columns, FEWEST_COLUMNS)
