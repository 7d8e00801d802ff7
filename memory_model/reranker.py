"""The re-ranker: query tokens against slots, for the few memories that the router chose.

Late interaction (ColBERT: Khattab & Zaharia 2020, arXiv 2004.12832) whose two sides are both codes:
a memory's slots are already there, and the query is compressed as if it were a passage of one-token
windows. With unit vectors a_t of the query's tokens and b_s of the slots,

    score(q, z) = Σ_t max_s (w_t a_t)·b_s  +  c · router score,    w_t ∝ softplus(w·z_t),  Σ w_t = 1

The vectors w_t a_t depend on the query alone and b_s on the memory alone: each is made once.

Symbols: T = query tokens, C = candidates, m = slots, d = code dimension, r = width.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

MAX_WIDTH = 128


class Reranker(nn.Module):
    """Scores candidates by their slots."""

    def __init__(self, z_dim: int) -> None:
        super().__init__()
        width = min(MAX_WIDTH, z_dim)
        self.query_head = nn.Linear(z_dim, width)  # (d) -> (r)
        self.slot_head = nn.Linear(z_dim, width)  # (d) -> (r)
        self.weight_head = nn.Linear(z_dim, 1)
        self.router_weight = nn.Parameter(torch.ones(()))  # c

    def query_vectors(self, query: torch.Tensor) -> torch.Tensor:
        """w_t a_t. (T, d) codes of the query's tokens -> (T, r)"""
        weights = functional.softplus(self.weight_head(query))  # (T, 1)
        tokens = functional.normalize(self.query_head(query), dim=-1)  # (T, r)
        return tokens * (weights / weights.sum())

    def slot_vectors(self, codes: torch.Tensor) -> torch.Tensor:
        """b_s. (…, m, d) codes -> (…, m, r) unit norm"""
        return functional.normalize(self.slot_head(codes), dim=-1)

    def forward(
        self, query: torch.Tensor, candidates: torch.Tensor, router_scores: torch.Tensor
    ) -> torch.Tensor:
        """Higher is better.

        Args:
            query: (T, d) codes of the query's tokens.
            candidates: (C, m, d) codes.
            router_scores: (C,) cosines of the router.

        Returns: (C,)
        """
        tokens = self.query_vectors(query)  # (T, r)
        best = (self.slot_vectors(candidates) @ tokens.T).amax(dim=1)  # (C, T)
        return best.sum(dim=1) + self.router_weight * router_scores
