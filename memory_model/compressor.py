"""The compressor f(D) -> z: passages in, codes out.

The first layers of the LLM read the passage with bidirectional attention; their hidden states
are averaged over m even windows, and a linear head maps each average to a code. (Window means of
bidirectional states beat appended slot tokens: Feldman & Artzi 2025, arXiv 2510.20797; here
R@5 0.95 against 0.57 for a random head, see experiments/LOG.md.)

Symbols: B = batch, L = tokens, m = slots, h = hidden size, d = code dimension.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from memory_model.base import BaseModel


class Compressor(nn.Module):
    """Encodes passages, and queries in the same space."""

    def __init__(
        self, base: BaseModel, *, slots: int, z_dim: int, layers: int, write_lm: Any = None
    ) -> None:
        """``write_lm``: the base with its write adapter merged; None = the base itself."""
        super().__init__()
        self.slots = slots
        self.code_head = nn.Linear(base.hidden_size, z_dim)  # (h) -> (d), float32
        self._encoder = (_first_layers(write_lm or base.lm, layers),)  # a tuple: no submodule
        self._pad_id = base.tokenizer.pad_token_id or 0

    @property
    def device(self) -> torch.device:
        return self.code_head.weight.device

    def states(self, token_ids: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Hidden states after the first layers, every token seeing its whole passage.

        Returns: states (B, L, h) float32 and mask (B, L) bool, right-padded.
        """
        ids, mask = self.pad(token_ids)
        lowest = torch.finfo(self._encoder[0].dtype).min
        attention = torch.where(mask, 0.0, lowest).to(self._encoder[0].dtype)  # (B, L)
        attention = attention[:, None, None, :].expand(-1, 1, ids.shape[1], -1)  # (B, 1, L, L)
        output = self._encoder[0](
            input_ids=ids, attention_mask=attention.contiguous(), use_cache=False
        )
        return output.last_hidden_state.float(), mask  # (B, L, h)

    def pad(self, token_ids: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Right-pad to the longest. Returns: ids (B, L) and mask (B, L) bool."""
        longest = max(len(ids) for ids in token_ids)
        ids = torch.full((len(token_ids), longest), self._pad_id, dtype=torch.long)
        mask = torch.zeros((len(token_ids), longest), dtype=torch.bool)
        for row, tokens in enumerate(token_ids):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = True
        return ids.to(self.device), mask.to(self.device)

    def compress(self, token_ids: Sequence[Sequence[int]]) -> torch.Tensor:
        """Codes of passages: one slot per window. Returns: (B, m, d) float32."""
        states, mask = self.states(token_ids)
        windows = window_weights(mask, self.slots)  # (B, m, L)
        codes: torch.Tensor = self.code_head(windows @ states)  # (B, m, h) -> (B, m, d)
        return codes

    def embed_queries(self, token_ids: Sequence[Sequence[int]]) -> torch.Tensor:
        """Mean code of queries, comparable with :func:`keys`. Returns: (B, d) unit norm."""
        states, mask = self.states(token_ids)
        means = window_weights(mask, 1) @ states  # (B, 1, h)
        return functional.normalize(self.code_head(means[:, 0]), dim=-1)


def keys(codes: torch.Tensor) -> torch.Tensor:
    """What the index holds of a memory: its mean-pooled code. (B, m, d) -> (B, d) unit norm."""
    return functional.normalize(codes.mean(dim=-2), dim=-1)


def window_weights(mask: torch.Tensor, slots: int) -> torch.Tensor:
    """Averaging weights that deal L tokens out over m even windows, in order.

    A passage shorter than m tokens repeats tokens, so that every slot is filled.

    Args:
        mask: (B, L) bool, right-padded, at least one token a row.

    Returns: (B, m, L), each row of windows summing to one.
    """
    lengths = mask.sum(dim=1, keepdim=True)  # (B, 1)
    slot = torch.arange(slots, device=mask.device)[None, :]  # (1, m)
    start = slot * lengths // slots  # (B, m)
    end = torch.maximum((slot + 1) * lengths // slots, start + 1)
    position = torch.arange(mask.shape[1], device=mask.device)
    inside = (position >= start[..., None]) & (position < end[..., None])  # (B, m, L)
    return inside / inside.sum(dim=-1, keepdim=True)


def _first_layers(lm: Any, layers: int) -> Any:
    """The transformer cut after ``layers`` layers, without its final norm; weights are shared."""
    trunk = copy.copy(lm.base_model)
    trunk._modules = dict(trunk._modules)  # the copy must not change the original's children
    trunk.config = copy.deepcopy(trunk.config)
    trunk.config.num_hidden_layers = layers
    trunk.layers = trunk.layers[:layers]
    trunk.norm = nn.Identity()
    return trunk
