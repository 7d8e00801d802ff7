"""A slot as a weighted sum of a few of the LLM's own token embeddings.

What a window of text becomes is mostly the mean of its tokens' embeddings: nine tenths of the
variance of trained codes (experiments/LOG.md). No small codebook holds that, since it says which
words these were; the LLM's embedding table does, and every process that reads codes has it in
memory already. So a code is approximated by

    z  ≈  A · (w_1 e_1 + … + w_W e_W) + b

with e_i rows of the table, found by orthogonal matching pursuit (Pati, Rezaiifar & Krishnaprasad
1993): W times the word that explains most of what is left, all weights solved for again each time.
What the sum cannot say (the context's part of a code) is small but lies in few directions, where it
would drown the differences between words; hence words are compared after whitening with the
covariance of that remainder.

Symbols: N = slots, W = words a slot, V = vocabulary, h = hidden size, d = code dimension.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import embedding_bag

from memory_model.base import BaseModel
from memory_model.codebook import CODEWORDS, kmeans, nearest

RIDGE = 1e-3
"""Of the mean variance, where a matrix is inverted."""
SCORES = 1 << 25
"""So many similarities of slots and words are held at once."""


class WordMixture(nn.Module):
    """W words of the vocabulary and one of 256 sets of weights."""

    def __init__(self, base: BaseModel, *, z_dim: int, words: int) -> None:
        super().__init__()
        self.words = words
        self._base = base
        self._word_bytes = 2 if len(base.embedding_table) <= 1 << 16 else 3
        self._whitened: torch.Tensor | None = None  # (V, d), made when something is encoded
        self._mapped: torch.Tensor | None = None  # (V, d), made when something is decoded
        self.word_map: torch.Tensor  # A (d, h)
        self.offset: torch.Tensor  # b (d)
        self.whitening: torch.Tensor  # (d, d): rows of d times this have unit covariance
        self.weights: torch.Tensor  # (256, W)
        self.register_buffer("word_map", torch.zeros(z_dim, base.hidden_size))
        self.register_buffer("offset", torch.zeros(z_dim))
        self.register_buffer("whitening", torch.eye(z_dim))
        self.register_buffer("weights", torch.zeros(CODEWORDS, words))
        self.register_load_state_dict_post_hook(  # type: ignore[no-untyped-call]
            _forget_tables
        )

    @property
    def slot_bytes(self) -> int:
        """Of the words and the weights of a slot."""
        return self._word_bytes * self.words + 1

    @torch.no_grad()
    def fit(self, codes: torch.Tensor, means: torch.Tensor) -> None:
        """Set everything from N codes (N, d) and the mean embeddings of their windows (N, h)."""
        codes, means = codes.float(), means.float()
        centre, middle = codes.mean(dim=0), means.mean(dim=0)
        x, y = means - middle, codes - centre
        gram = x.T @ x
        gram.diagonal().add_(RIDGE * gram.diagonal().mean())
        self.word_map.copy_(torch.linalg.solve(gram, x.T @ y).T)
        self.offset.copy_(centre - self.word_map @ middle)
        remainder = y - x @ self.word_map.T  # (N, d)
        covariance = remainder.T @ remainder / len(remainder)
        covariance.diagonal().add_(RIDGE * y.square().mean())
        self.whitening.copy_(torch.linalg.cholesky(torch.linalg.inv(covariance)))
        _forget_tables(self)
        _, weights = self._pursue(codes)
        self.weights.copy_(kmeans(weights))

    @torch.no_grad()
    def encode(self, codes: torch.Tensor) -> torch.Tensor:
        """Each slot's words, least significant byte first, then its weights' number.

        (N, d) -> (N, slot_bytes) uint8
        """
        words, weights = self._pursue(codes.float())  # (N, W)
        shifts = 8 * torch.arange(self._word_bytes, device=words.device)
        pieces = (words[..., None] >> shifts & 255).flatten(1)  # (N, W * bytes)
        mixture = nearest(weights, self.weights)[:, None]  # (N, 1)
        return torch.cat([pieces, mixture], dim=1).to(torch.uint8)

    def decode(self, names: torch.Tensor) -> torch.Tensor:
        """Inverse of :meth:`encode`, nearly. (N, slot_bytes) uint8 -> (N, d) float32

        Raises:
            IndexError: a word beyond the vocabulary.
        """
        pieces = names[:, :-1].long().reshape(-1, self.words, self._word_bytes)
        shifts = 8 * torch.arange(self._word_bytes, device=names.device)
        words = (pieces << shifts).sum(dim=-1)  # (N, W)
        weights = self.weights[names[:, -1].long()]  # (N, W)
        if words.device.type == "cpu":
            return self._sum_mapped(words, weights).add_(self.offset)
        embedded = self._base.embedding_table[words].float()  # (N, W, h)
        mixed = (weights[..., None] * embedded).sum(dim=1)  # (N, h)
        return mixed @ self.word_map.T + self.offset

    def _sum_mapped(self, words: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """A · (w_1 e_1 + …) from A · e of all words, which a CPU adds up sooner than it multiplies.

        In float32, which takes no longer than float16 and is the product but for its last bits.
        (N, W), (N, W) -> (N, d)
        """
        if self._mapped is None:
            self._mapped = self._base.embedding_table.float() @ self.word_map.T  # (V, d)
        if (words >= len(self._mapped)).any():
            raise IndexError(f"a slot names a word beyond the {len(self._mapped)} there are")
        return embedding_bag(words, self._mapped, per_sample_weights=weights, mode="sum")

    def _pursue(self, codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Words of each slot and their weights, greatest first. (N, d) -> (N, W), (N, W)"""
        vocabulary = self._vocabulary()  # (V, d)
        lengths = vocabulary.norm(dim=-1).clamp(min=1e-6)  # (V,)
        target = (codes - self.offset) @ self.whitening  # (N, d)
        left, chosen = target, torch.empty(len(codes), 0, dtype=torch.long, device=codes.device)
        for _ in range(self.words):
            chosen = torch.cat([chosen, _most_similar(left, vocabulary, lengths)[:, None]], dim=1)
            atoms = vocabulary[chosen]  # (N, 1 … W, d)
            weights = _least_squares(atoms, target)  # (N, 1 … W)
            left = target - (weights[..., None] * atoms).sum(dim=1)
        order = weights.argsort(dim=1, descending=True)
        return chosen.gather(1, order), weights.gather(1, order)

    def _vocabulary(self) -> torch.Tensor:
        """Every word where whitened codes are. (V, d)"""
        if self._whitened is None:
            self._whitened = self._base.embedding_table.float() @ (self.word_map.T @ self.whitening)
        return self._whitened


def _forget_tables(mixture: WordMixture, _keys: object = None) -> None:
    mixture._whitened = mixture._mapped = None


def _most_similar(
    vectors: torch.Tensor, vocabulary: torch.Tensor, lengths: torch.Tensor
) -> torch.Tensor:
    """The word in whose direction most of each vector lies. (N, d), (V, d), (V,) -> (N,)"""
    rows = max(1, SCORES // len(vocabulary))
    return torch.cat(
        [
            (vectors[start : start + rows] @ vocabulary.T / lengths).argmax(dim=-1)
            for start in range(0, len(vectors), rows)
        ]
    )


def _least_squares(atoms: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Weights of W atoms (N, W, d) whose sum comes nearest to each target (N, d). Returns: (N, W)

    The ridge matters where one word was chosen twice.
    """
    gram = atoms @ atoms.mT  # (N, W, W)
    ridge = (0.1 * RIDGE * gram.diagonal(dim1=1, dim2=2).mean(dim=1)).clamp(min=1e-12)  # (N,)
    gram = gram + ridge[:, None, None] * torch.eye(gram.shape[-1], device=gram.device)
    weights: torch.Tensor = torch.linalg.solve(gram, (atoms @ target[..., None])).squeeze(-1)
    return weights
