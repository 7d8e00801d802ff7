"""The expander z -> what enters the LLM: one linear map, shared by all slots.

Low-dimensional codes lose nothing: cramming through a 256-d code and a linear map holds more
tokens than free vectors of the LLM's width ("Progressive Cramming", ICML 2026).

A scale per slot would tie a bundle to one m; slots are windows of text, alike wherever they stand.

Symbols: d = code dimension, h = hidden size.
"""

from __future__ import annotations

import torch
from torch import nn

PULL_BACK_RIDGE = 0.01  # of the mean squared column norm


class Expander(nn.Module):
    """Turns codes into ``inputs_embeds``."""

    def __init__(self, *, z_dim: int, hidden_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(z_dim, hidden_size)  # (d) -> (h), float32
        self.text_mean: torch.Tensor  # (h,) mean token embedding of running text
        self.register_buffer("text_mean", torch.zeros(hidden_size))

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """(…, d) -> (…, h), float32."""
        expanded: torch.Tensor = self.linear(codes.to(self.linear.weight.dtype))
        return expanded

    @torch.no_grad()
    def pull_back(self) -> torch.Tensor:
        """The regularised inverse of the linear map: (WᵀW + λI)⁻¹ Wᵀ. Returns: (d, h)."""
        weight = self.linear.weight  # (h, d)
        gram = weight.T @ weight
        gram.diagonal().add_(PULL_BACK_RIDGE * gram.diagonal().mean())
        inverse: torch.Tensor = torch.linalg.solve(gram, weight.T)
        return inverse
