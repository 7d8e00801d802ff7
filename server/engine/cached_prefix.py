"""Keys and values of what every prompt begins with, computed once.

The template's first tokens are the same in every prompt, and causal attention makes nothing of them
depend on what follows: of a prompt of a hundred positions a sixth need not be computed. A shared
prefix, as in Kwon et al. 2023 (arXiv 2309.06180, section 4.4).

Symbols: P = positions of the prefix, T = of a prompt, h = hidden size, q, k = query heads, key
heads, e = a head's size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import PreTrainedModel

from memory_model.packed_llama import PackedLlama

if TYPE_CHECKING:
    from memory_model.runtime import ReadingModel


class CachedPrefix:
    """Of a packed model. Call it under ``torch.inference_mode``."""

    def __init__(self, lm: PreTrainedModel, embeds: torch.Tensor) -> None:
        """``embeds``: (P, h), at least one position."""
        self._embeds = embeds
        self._layers: list[tuple[torch.Tensor, torch.Tensor]] = []  # each (1, k, P, e)

        def attend(
            _number: int, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
        ) -> torch.Tensor:
            self._layers.append((keys.contiguous(), values.contiguous()))
            return attend_causally(queries, keys, values)

        lm(inputs_embeds=embeds[None], attend=attend, logits_to_keep=1)

    def length_in(self, prompt: torch.Tensor) -> int:
        """How many first positions of ``prompt`` (T, h) are known: P, or none. Never all: something
        must be computed for a next token."""
        length = len(self._embeds)
        known = len(prompt) > length and torch.equal(prompt[:length], self._embeds)
        return length if known else 0

    def before(
        self, number: int, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values (1, k, T - P, e) of layer ``number``, behind those of the prefix:
        (1, k, T, e)"""
        first_keys, first_values = self._layers[number]
        return torch.cat([first_keys, keys], dim=2), torch.cat([first_values, values], dim=2)


@torch.inference_mode()
def cached_prefix(model: ReadingModel) -> CachedPrefix | None:
    """Of this model's prompts; None where it is not packed, or they begin with nothing."""
    embeds = model.prefix_embeds()
    if len(embeds) == 0 or not isinstance(model.lm.base_model, PackedLlama):
        return None
    return CachedPrefix(model.lm, embeds)


def attend_causally(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
) -> torch.Tensor:
    """Queries (1, q, S, e) of the last S of T positions, keys and values (1, k, T, e) of all ->
    (1, S, q, e)"""
    # a square is causal without a mask, which makes torch's CPU kernel slower than the rows that
    # are computed in vain
    known = keys.shape[2] - queries.shape[2]
    attended = scaled_dot_product_attention(
        pad(queries, (0, 0, known, 0)), keys, values, is_causal=True, enable_gqa=True
    )  # (1, q, T, e)
    return attended[:, :, known:].transpose(1, 2)
