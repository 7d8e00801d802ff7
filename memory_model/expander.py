"""The expander z -> what enters the LLM: a shared linear map and one norm scalar per slot.

Low-dimensional codes lose nothing: cramming through a 256-d code and a linear map holds more
tokens than free vectors of the LLM's width ("Progressive Cramming", ICML 2026).

Symbols: m = slots, d = code dimension, h = hidden size.
"""

from __future__ import annotations

import torch
from torch import nn


class Expander(nn.Module):
    """Turns codes into ``inputs_embeds``."""

    def __init__(self, *, slots: int, z_dim: int, hidden_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(z_dim, hidden_size)  # (d) -> (h), float32
        self.slot_scale = nn.Parameter(torch.ones(slots))  # (m,)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """(…, m, d) -> (…, m, h), float32. Fewer than m slots take the first scales."""
        scale = self.slot_scale[: codes.shape[-2], None]  # (m, 1)
        expanded: torch.Tensor = self.linear(codes.to(self.linear.weight.dtype)) * scale
        return expanded
