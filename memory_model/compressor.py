"""The compressor f(D) -> z: passages in, codes out.

The first layers of the LLM read the passage with bidirectional attention. Tokens are dealt out
over m windows of like information (``windows``), and a code is what the window's mean token
embedding and the mean of its hidden states map to, each by a linear head:

    z_s = E · mean(embeddings of window s)  +  H · mean(scaled states of window s) + b

The means are weighted: of two tokens in a window, the one with the higher score w·state counts
for more, so that a name need not share its slot evenly with a comma. Started with E as (a
projection of) the identity, H = 0 and w = 0, windows of one token are the text itself, so a reader
of text reads them at once; training then compresses from there. (Window means of bidirectional
states beat appended slot tokens: Feldman & Artzi 2025, arXiv 2510.20797, and experiments/LOG.md.)

Symbols: B = batch, L = tokens, m = slots, h = hidden size, d = code dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from memory_model.base import BaseModel
from memory_model.encoder import Encoder, Reading, first_layers
from memory_model.windows import window_weights


class Compressor(nn.Module):
    """Turns passages into codes."""

    def __init__(
        self, base: BaseModel, *, slots: int, z_dim: int, layers: int, trunk: Any = None
    ) -> None:
        """``trunk``: first layers with the write adapter; None = those of the base itself."""
        super().__init__()
        self.slots = slots
        self.embedding_head = nn.Linear(base.hidden_size, z_dim, bias=False)  # (h) -> (d)
        self.code_head = nn.Linear(base.hidden_size, z_dim)  # (h) -> (d), float32
        self.weight_head = nn.Linear(base.hidden_size, 1, bias=False)  # w
        nn.init.zeros_(self.weight_head.weight)
        self.state_scale: torch.Tensor  # (h,) evens out the few huge dimensions of deep states
        self.register_buffer("state_scale", torch.ones(base.hidden_size))
        self.token_information: torch.Tensor  # (V,) what a token holds; all alike = even windows
        self.register_buffer("token_information", torch.ones(len(base.embedding_table)))
        self.encoder = Encoder(base, trunk or first_layers(base.lm, layers))

    def read(self, token_ids: Sequence[Sequence[int]]) -> Reading:
        """Run the first layers. Returns: a reading whose states are scaled."""
        reading = self.encoder(token_ids)
        return replace(reading, states=reading.states * self.state_scale)

    def compress(
        self, token_ids: Sequence[Sequence[int]], slots: int | torch.Tensor | None = None
    ) -> torch.Tensor:
        """Codes of passages.

        Args:
            slots: m; or (B,) a number for each passage, whose codes beyond are meaningless;
                None = the bundle's.

        Returns: (B, m, d) float32.
        """
        return self.head(*self.windows(token_ids, slots))

    def compress_tokens(self, token_ids: Sequence[Sequence[int]]) -> torch.Tensor:
        """Codes of each token, as a window of its own. Returns: (B, L, d) float32; padding's are
        meaningless."""
        reading = self.read(token_ids)
        return self.head(reading.embedded, reading.states)

    def windows(
        self, token_ids: Sequence[Sequence[int]], slots: int | torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Weighted means of each window's embeddings and of its states. Returns: (B, m, h) twice"""
        reading = self.read(token_ids)
        windows = window_weights(
            self.token_information[reading.token_ids],
            reading.mask,
            self.slots if slots is None else slots,
            self.weight_head(reading.states),
        )  # (B, m, L)
        return windows @ reading.embedded, windows @ reading.states

    def head(self, embedded: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """Window means (…, h) of embeddings and states -> codes (…, d)."""
        codes: torch.Tensor = self.embedding_head(embedded) + self.code_head(states)
        return codes
