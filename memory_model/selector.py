"""The selector: which memories answer a query.

A key is a linear head of a memory's mean-pooled codes, a query vector another linear head of the
query's mean code; their cosine ranks (a bi-encoder, trained with InfoNCE: Karpukhin et al. 2020,
arXiv 2004.04906). In an untrained bundle both heads are the identity.

Symbols: B = batch, m = slots, d = code dimension.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from memory_model.compressor import Compressor


class Selector(nn.Module):
    """Maps memories and queries into the space of the index."""

    def __init__(self, z_dim: int) -> None:
        super().__init__()
        self.key_head = nn.Linear(z_dim, z_dim)
        self.query_head = nn.Linear(z_dim, z_dim)
        with torch.no_grad():
            for head in (self.key_head, self.query_head):
                nn.init.eye_(head.weight)
                nn.init.zeros_(head.bias)

    def keys(self, codes: torch.Tensor) -> torch.Tensor:
        """What the index holds of memories. (B, m, d) -> (B, d) unit norm."""
        return self.keys_of_means(codes.mean(dim=-2))

    def keys_of_means(self, means: torch.Tensor) -> torch.Tensor:
        """(B, d) mean codes -> (B, d) unit norm."""
        return functional.normalize(self.key_head(means), dim=-1)

    def queries(self, compressor: Compressor, token_ids: Sequence[Sequence[int]]) -> torch.Tensor:
        """Vectors the index is searched with. Returns: (B, d) unit norm."""
        means = compressor.compress(token_ids, slots=1)[:, 0]  # (B, d)
        return functional.normalize(self.query_head(means), dim=-1)
