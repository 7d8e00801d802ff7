"""The expander z -> what enters the LLM: one linear map, shared by all slots.

Low-dimensional codes lose nothing: cramming through a 256-d code and a linear map holds more
tokens than free vectors of the LLM's width ("Progressive Cramming", ICML 2026).

A scale per slot would tie a bundle to one m; slots are windows of text, alike wherever they stand.

Symbols: d = code dimension, h = hidden size.
"""

from __future__ import annotations

import torch
from torch import nn


class Expander(nn.Module):
    """Turns codes into ``inputs_embeds``."""

    def __init__(self, *, z_dim: int, hidden_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(z_dim, hidden_size)  # (d) -> (h), float32

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """(…, d) -> (…, h), float32."""
        expanded: torch.Tensor = self.linear(codes.to(self.linear.weight.dtype))
        return expanded
