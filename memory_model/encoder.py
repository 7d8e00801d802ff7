"""The encoder: the first layers of the LLM, every token seeing its whole passage.

The compressor and the selector both read with one: bidirectional attention costs nothing in the
first layers and gives every token the words to its right (experiments/LOG.md).

Symbols: B = batch, L = tokens, h = hidden size.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from memory_model.base import BaseModel
from memory_model.packed_llama import pack_model
from memory_model.recording import ReadingRecordings


@dataclass(frozen=True, slots=True)
class Reading:
    """What an encoder sees of B passages, right-padded."""

    token_ids: torch.Tensor  # (B, L)
    embedded: torch.Tensor  # (B, L, h) float32 token embeddings
    states: torch.Tensor  # (B, L, h) float32 states after the last of its layers
    mask: torch.Tensor  # (B, L) bool

    def pooled(self) -> torch.Tensor:
        """Mean state of each passage. Returns: (B, h)."""
        weights = self.mask / self.mask.sum(dim=1, keepdim=True)  # (B, L)
        return (weights[:, None, :] @ self.states)[:, 0]


class Encoder:
    """Reads token ids with a trunk; holds no weights of its own."""

    def __init__(self, base: BaseModel, trunk: Any) -> None:
        """``trunk``: what :func:`first_layers` gives, perhaps with an adapter in it."""
        self.trunk = trunk
        self._pad_id = base.tokenizer.pad_token_id or 0
        self._recordings: ReadingRecordings | None = None

    def __call__(self, token_ids: Sequence[Sequence[int]]) -> Reading:
        """Run the layers on B passages of at least one token each."""
        ids, mask = self._pad(token_ids)
        embedded = self.trunk.get_input_embeddings()(ids)  # (B, L, h)
        states = (self._recordings or self._states)(embedded, mask)
        return Reading(ids, embedded.float(), states[:, : ids.shape[1]].float(), mask)

    def pack(self, *, may_round: bool) -> None:
        """Keep the layers' weights for fast forwards on a CPU. They get no gradients and cannot be
        saved afterwards.

        ``may_round``: float32 to float16.
        """
        self.trunk = pack_model(self.trunk, may_round=may_round)

    @torch.inference_mode()
    def record(self, most_rows: int) -> None:
        """Replay, from here on, what up to ``most_rows`` short passages take. For one thread, and
        without gradients.

        Raises: RuntimeError if that cannot be recorded.
        """
        ids, mask = self._pad([[0, 1]])  # any text
        embedded = self.trunk.get_input_embeddings()(ids)
        self._recordings = ReadingRecordings(self._states, embedded, mask, most_rows=most_rows)

    def _states(self, embedded: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, L, h), (B, L) -> (B, L, h), after the last layer."""
        lowest = torch.finfo(embedded.dtype).min
        attention = torch.where(mask, 0.0, lowest).to(embedded.dtype)  # (B, L)
        attention = attention[:, None, None, :].expand(-1, 1, mask.shape[1], -1)  # (B, 1, L, L)
        output = self.trunk(
            inputs_embeds=embedded, attention_mask=attention.contiguous(), use_cache=False
        )
        states: torch.Tensor = output.last_hidden_state
        return states

    def _pad(self, token_ids: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Right-pad to the longest. Returns: ids (B, L) and mask (B, L) bool."""
        longest = max(len(ids) for ids in token_ids)
        ids = torch.full((len(token_ids), longest), self._pad_id, dtype=torch.long)
        mask = torch.zeros((len(token_ids), longest), dtype=torch.bool)
        for row, tokens in enumerate(token_ids):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = True
        device = self.trunk.get_input_embeddings().weight.device
        return ids.to(device), mask.to(device)


def first_layers(lm: Any, layers: int, *, own_weights: bool = False) -> Any:
    """The transformer cut after ``layers`` layers, without its final norm.

    Args:
        own_weights: copy the layers (the embeddings stay shared), so that adapters can go in, or
            so that adapters merged into ``lm`` later do not change them.
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
