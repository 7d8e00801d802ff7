"""The selector: which memories answer a query.

A bi-encoder on the first layer of the LLM: a passage's key and a query's vector are linear heads
of their mean state there, and their cosine ranks (Karpukhin et al. 2020, arXiv 2004.04906). Both
are read in lower case, because people who ask do not capitalise names as texts do (R@5 on Natural
Questions 0.67 -> 0.76, experiments/LOG.md). The layer keeps the LLM's own weights whatever is
trained: what the reader wants of codes and what selection wants of keys pull apart (trained jointly
through z, R@5 fell from 0.92 to 0.77). In an untrained bundle both heads are the same.

Symbols: B = batch, h = hidden size, d = key dimension.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from memory_model.base import BaseModel
from memory_model.encoder import Encoder, first_layers
from memory_model.reranker import Reranker

LAYERS = 1


class Selector(nn.Module):
    """Maps passages and queries into the space of the index."""

    def __init__(self, base: BaseModel, *, key_dim: int, own_weights: bool = False) -> None:
        """``key_dim``: d, of keys and of the codes that are re-ranked.
        ``own_weights``: copy the layer; needed where adapters go into ``base.lm`` later."""
        super().__init__()
        self.key_head = nn.Linear(base.hidden_size, key_dim)
        self.query_head = nn.Linear(base.hidden_size, key_dim)
        self.reranker = Reranker(key_dim)
        self.encoder = Encoder(base, first_layers(base.lm, LAYERS, own_weights=own_weights))
        self._tokenize = base.tokenize

    def features(self, texts: Sequence[str]) -> torch.Tensor:
        """What the heads see: the mean state of each text in lower case. Returns: (B, h) float32.

        No text may be empty.
        """
        return self.encoder([self._tokenize(text.lower()) for text in texts]).pooled()

    def keys(self, passages: Sequence[str]) -> torch.Tensor:
        """What the index holds of B passages. Returns: (B, d) unit norm."""
        return functional.normalize(self.key_head(self.features(passages)), dim=-1)

    def queries(self, queries: Sequence[str]) -> torch.Tensor:
        """Vectors the index is searched with. Returns: (B, d) unit norm."""
        return functional.normalize(self.query_head(self.features(queries)), dim=-1)
