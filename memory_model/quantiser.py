"""The quantiser: a code as a few bytes a slot.

Residual vector quantisation (Juang & Gray 1982; trained end to end as in SoundStream, Zeghidour et
al. 2021, arXiv 2107.03312): a slot is the sum of one vector out of each of S codebooks of 256,
chosen greedily, each for what the ones before left over; S bytes name it. Rounding every number on
its own (int4) costs d / 2 bytes a slot and needs no training; this needs both reader and compressor
trained on quantised codes, or little is left of the answers (experiments/LOG.md).

Symbols: S = stages, N = slots of any passages, d = code dimension.
"""

from __future__ import annotations

import torch
from torch import nn

STAGES = 22
"""Bytes a slot: 32 slots and an int4 key of 576 numbers are 994 bytes."""
CODEWORDS = 256
KMEANS_ITERATIONS = 8
INERTIA = 100
"""A codeword weighs as much as so many new codes when it follows them."""


class Quantiser(nn.Module):
    """S codebooks over the code space."""

    def __init__(self, *, z_dim: int, stages: int = STAGES) -> None:
        super().__init__()
        self.codebooks: torch.Tensor  # (S, 256, d) float32
        self.register_buffer("codebooks", torch.zeros(stages, CODEWORDS, z_dim))

    @property
    def is_fitted(self) -> bool:
        """Whether the codebooks hold anything yet."""
        return bool(self.codebooks.any())

    @torch.no_grad()
    def encode(self, codes: torch.Tensor) -> torch.Tensor:
        """Names of the nearest sums. (…, d) -> (…, S) uint8"""
        residual = codes.reshape(-1, codes.shape[-1]).float()  # (N, d)
        chosen = []
        for codebook in self.codebooks:  # (256, d)
            index = _nearest(residual, codebook)  # (N,)
            residual = residual - codebook[index]
            chosen.append(index)
        return torch.stack(chosen, dim=-1).to(torch.uint8).reshape(*codes.shape[:-1], -1)

    def decode(self, names: torch.Tensor) -> torch.Tensor:
        """Sums of codewords. (…, S) uint8 -> (…, d) float32"""
        stages, codewords, d = self.codebooks.shape
        offsets = torch.arange(stages, device=names.device) * codewords
        rows = names.reshape(-1, stages).long() + offsets  # (N, S) rows of the joined codebooks
        table = self.codebooks.reshape(-1, d)
        summed = nn.functional.embedding_bag(rows, table, mode="sum")  # (N, d)
        return summed.reshape(*names.shape[:-1], d)

    @torch.no_grad()
    def fit(self, codes: torch.Tensor) -> None:
        """Set the codebooks by k-means, each on what the ones before leave of N codes (N, d)."""
        residual = codes.float()
        generator = torch.Generator().manual_seed(0)
        for codebook in self.codebooks:
            drawn = torch.randint(len(residual), (CODEWORDS,), generator=generator)
            codebook.copy_(residual[drawn.to(residual.device)])
            for _ in range(KMEANS_ITERATIONS):
                _move_to_means(codebook, residual, inertia=0)
            residual = residual - codebook[_nearest(residual, codebook)]

    @torch.no_grad()
    def follow(self, codes: torch.Tensor) -> None:
        """Move the codebooks a little towards N codes (N, d) of a training step.

        A running mean of what each codeword stands for, as usual for vector quantisers under
        training (van den Oord et al. 2017, arXiv 1711.00937, appendix A).
        """
        residual = codes.float()
        for codebook in self.codebooks:
            _move_to_means(codebook, residual, inertia=INERTIA)
            residual = residual - codebook[_nearest(residual, codebook)]


def _move_to_means(codebook: torch.Tensor, vectors: torch.Tensor, *, inertia: int) -> None:
    """Codewords (256, d) become means of themselves, ``inertia`` times, and their vectors (N, d).

    One that no vector is nearest to stays.
    """
    index = _nearest(vectors, codebook)
    count = torch.bincount(index, minlength=CODEWORDS)[:, None]  # (256, 1)
    sums = torch.zeros_like(codebook).index_add_(0, index, vectors) + inertia * codebook
    codebook.copy_(torch.where(count > 0, sums / (count + inertia).clamp(min=1), codebook))


def _nearest(vectors: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    """Rows of the codewords (256, d) nearest to vectors (N, d). Returns: (N,)"""
    return (vectors @ codebook.T - codebook.square().sum(dim=-1) / 2).argmax(dim=-1)
