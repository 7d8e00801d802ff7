"""A codebook: C vectors, each standing for those that are nearest to it.

Symbols: N = vectors, C = codewords, d = their dimension.
"""

from __future__ import annotations

import torch

CODEWORDS = 256
"""As many as one byte names."""
KMEANS_ITERATIONS = 10


def nearest(vectors: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    """Rows of the codewords (C, d) nearest to vectors (N, d). Returns: (N,)"""
    return (vectors @ codebook.T - codebook.square().sum(dim=-1) / 2).argmax(dim=-1)


@torch.no_grad()
def kmeans(vectors: torch.Tensor) -> torch.Tensor:
    """A codebook of N vectors (N, d), repeatable. Returns: (256, d)"""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(len(vectors), (CODEWORDS,), generator=generator)
    codebook = vectors[drawn.to(vectors.device)].clone()
    for _ in range(KMEANS_ITERATIONS):
        move_to_means(codebook, vectors, inertia=0)
    return codebook


@torch.no_grad()
def move_to_means(codebook: torch.Tensor, vectors: torch.Tensor, *, inertia: int) -> None:
    """Codewords (C, d) become means of themselves, ``inertia`` times, and their vectors (N, d).

    One that no vector is nearest to stays.
    """
    index = nearest(vectors, codebook)
    count = torch.bincount(index, minlength=len(codebook))[:, None]  # (C, 1)
    sums = torch.zeros_like(codebook).index_add_(0, index, vectors) + inertia * codebook
    codebook.copy_(torch.where(count > 0, sums / (count + inertia).clamp(min=1), codebook))
