"""The re-ranker: query tokens against slots, for the few memories that the router chose.

Late interaction (ColBERT: Khattab & Zaharia 2020, arXiv 2004.12832) without vectors of its own: a
memory's slots are already there, and the query is compressed as if it were a passage of one-token
windows, so both sides are codes. With unit vectors a_t of the query's tokens and b_s of the slots,

    score(q, z) = Σ_t w_t · max_s a_t·b_s / Σ_t w_t  +  c · router score,    w_t = softplus(w·z_t)

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
        self.router_weight = nn.Parameter(torch.ones(()))

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
        tokens = functional.normalize(self.query_head(query), dim=-1)  # (T, r)
        slots = functional.normalize(self.slot_head(candidates), dim=-1)  # (C, m, r)
        best = (slots @ tokens.T).amax(dim=1)  # (C, T)
        weights = functional.softplus(self.weight_head(query))[:, 0]  # (T,)
        scores: torch.Tensor = best @ (weights / weights.sum())
        return scores + self.router_weight * router_scores
