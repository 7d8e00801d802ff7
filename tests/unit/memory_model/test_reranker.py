"""The re-ranker against a plain loop."""

from __future__ import annotations

import torch
from torch.nn import functional

from memory_model.reranker import Reranker

Z_DIM = 24


def test_scores_equal_a_plain_loop_over_tokens_and_slots() -> None:
    torch.manual_seed(0)
    reranker = Reranker(Z_DIM)
    query, candidates = torch.randn(3, Z_DIM), torch.randn(4, 5, Z_DIM)
    router = torch.tensor([0.4, 0.3, 0.2, 0.1])
    with torch.no_grad():
        scores = reranker(query, candidates, router)
        for memory, score, routed in zip(candidates, scores, router, strict=True):
            total, weights = 0.0, 0.0
            for token in query:
                weight = float(functional.softplus(reranker.weight_head(token)))
                best = max(
                    functional.cosine_similarity(
                        reranker.query_head(token), reranker.slot_head(slot), dim=0
                    ).item()
                    for slot in memory
                )
                total, weights = total + weight * best, weights + weight
            expected = total / weights + float(reranker.router_weight) * float(routed)
            assert abs(expected - float(score)) < 1e-5
