"""The compressor f(D) -> z: passages in, codes out.

The first layers of the LLM read the passage with bidirectional attention. Tokens are dealt out
over m even windows, and a code is what the window's mean token embedding and the mean of its
hidden states map to, each by a linear head:

    z_s = E · mean(embeddings of window s)  +  H · mean(scaled states of window s) + b

Started with E as (a projection of) the identity and H = 0, windows of one token are the text
itself, so a reader of text reads them at once; training then compresses from there. (Window means
of bidirectional states beat appended slot tokens: Feldman & Artzi 2025, arXiv 2510.20797, and
experiments/LOG.md.)

Symbols: B = batch, L = tokens, m = slots, h = hidden size, d = code dimension.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from memory_model.base import BaseModel


@dataclass(frozen=True, slots=True)
class Reading:
    """What the compressor sees of B passages, right-padded."""

    embedded: torch.Tensor  # (B, L, h) float32 token embeddings
    states: torch.Tensor  # (B, L, h) float32 states after the first layers, times state_scale
    mask: torch.Tensor  # (B, L) bool


class Compressor(nn.Module):
    """Encodes passages, and queries in the same space."""

    def __init__(
        self, base: BaseModel, *, slots: int, z_dim: int, layers: int, encoder: Any = None
    ) -> None:
        """``encoder``: first layers with the write adapter; None = those of the base itself."""
        super().__init__()
        self.slots = slots
        self.embedding_head = nn.Linear(base.hidden_size, z_dim, bias=False)  # (h) -> (d)
        self.code_head = nn.Linear(base.hidden_size, z_dim)  # (h) -> (d), float32
        self.state_scale: torch.Tensor  # (h,) evens out the few huge dimensions of deep states
        self.register_buffer("state_scale", torch.ones(base.hidden_size))
        if encoder is None:
            encoder = first_layers(base.lm, layers)
        self._encoder = (encoder,)  # a tuple: no submodule
        self._pad_id = base.tokenizer.pad_token_id or 0

    @property
    def device(self) -> torch.device:
        return self.code_head.weight.device

    def read(self, token_ids: Sequence[Sequence[int]]) -> Reading:
        """Run the first layers, every token seeing its whole passage."""
        ids, mask = self._pad(token_ids)
        encoder = self._encoder[0]
        embedded = encoder.get_input_embeddings()(ids)  # (B, L, h)
        lowest = torch.finfo(embedded.dtype).min
        attention = torch.where(mask, 0.0, lowest).to(embedded.dtype)  # (B, L)
        attention = attention[:, None, None, :].expand(-1, 1, ids.shape[1], -1)  # (B, 1, L, L)
        output = encoder(
            inputs_embeds=embedded, attention_mask=attention.contiguous(), use_cache=False
        )
        states = output.last_hidden_state.float() * self.state_scale  # (B, L, h)
        return Reading(embedded.float(), states, mask)

    def _pad(self, token_ids: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Right-pad to the longest. Returns: ids (B, L) and mask (B, L) bool."""
        longest = max(len(ids) for ids in token_ids)
        ids = torch.full((len(token_ids), longest), self._pad_id, dtype=torch.long)
        mask = torch.zeros((len(token_ids), longest), dtype=torch.bool)
        for row, tokens in enumerate(token_ids):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = True
        return ids.to(self.device), mask.to(self.device)

    def compress(
        self, token_ids: Sequence[Sequence[int]], slots: int | torch.Tensor | None = None
    ) -> torch.Tensor:
        """Codes of passages.

        Args:
            slots: m; or (B,) a number for each passage, whose codes beyond are meaningless;
                None = the bundle's.

        Returns: (B, m, d) float32.
        """
        reading = self.read(token_ids)
        windows = window_weights(reading.mask, self.slots if slots is None else slots)  # (B, m, L)
        return self.head(windows @ reading.embedded, windows @ reading.states)

    def head(self, embedded: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """Window means (…, h) of embeddings and states -> codes (…, d)."""
        codes: torch.Tensor = self.embedding_head(embedded) + self.code_head(states)
        return codes


def window_weights(mask: torch.Tensor, slots: int | torch.Tensor) -> torch.Tensor:
    """Averaging weights that deal L tokens out over m even windows, in order.

    A passage shorter than m tokens repeats tokens, so that every slot is filled.

    Args:
        mask: (B, L) bool, right-padded, at least one token a row.
        slots: m, or (B,) a number for each row; windows beyond a row's own are zero.

    Returns: (B, m, L), each row of windows summing to one.
    """
    lengths = mask.sum(dim=1, keepdim=True)  # (B, 1)
    number = torch.as_tensor(slots, device=mask.device).reshape(-1, 1)  # (B or 1, 1)
    slot = torch.arange(int(number.max()), device=mask.device)[None, :]  # (1, m)
    start = slot * lengths // number  # (B, m)
    end = torch.maximum((slot + 1) * lengths // number, start + 1)
    position = torch.arange(mask.shape[1], device=mask.device)
    inside = (position >= start[..., None]) & (position < end[..., None])  # (B, m, L)
    inside &= (slot < number)[..., None]
    return inside / inside.sum(dim=-1, keepdim=True).clamp(min=1)


def first_layers(lm: Any, layers: int, *, own_weights: bool = False) -> Any:
    """The transformer cut after ``layers`` layers, without its final norm.

    Args:
        own_weights: copy the layers (the embeddings stay shared), so that adapters can go in.
    """
    trunk = copy.copy(lm.base_model)
    trunk._modules = dict(trunk._modules)  # the copy must not change the original's children
    trunk.config = copy.deepcopy(trunk.config)
    trunk.config.num_hidden_layers = layers
    trunk.layers = trunk.layers[:layers]
    if own_weights:
        trunk.layers = copy.deepcopy(trunk.layers)
    trunk.norm = nn.Identity()
    return trunk
