"""A slot as a few words of the vocabulary: the right words, whatever the context adds."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest
import torch

from memory_model.base import BaseModel
from memory_model.quantiser import Quantiser
from memory_model.word_mixture import WordMixture

HIDDEN = 48
D = 40
WORDS = 3


def model(vocabulary: int, hidden: int = HIDDEN) -> BaseModel:
    """Of an LLM only its embedding table is asked."""
    table = torch.randn(vocabulary, hidden, generator=torch.Generator().manual_seed(7))
    return cast(BaseModel, SimpleNamespace(embedding_table=table, hidden_size=hidden))


class Windows:
    """Slots as a compressor makes them: a map of the mean of up to 3 words, and context.

    The context's part is as large as the words', in 3 of 40 directions.
    """

    def __init__(self, base: BaseModel, number: int) -> None:
        random = torch.Generator().manual_seed(0)
        self.words = torch.randint(len(base.embedding_table), (number, WORDS), generator=random)
        shares = torch.rand(number, WORDS, generator=random) + 0.3
        shares[: number // 3, 1:] = 0  # a window of one token
        self.shares = shares / shares.sum(dim=1, keepdim=True)
        self.means = (self.shares[..., None] * base.embedding_table[self.words]).sum(dim=1)
        mapping = torch.randn(base.hidden_size, D, generator=random) / base.hidden_size**0.5
        directions = torch.linalg.qr(torch.randn(D, 3, generator=random))[0]
        context = 2.0 * torch.randn(number, 3, generator=random) @ directions.T
        self.codes = self.means @ mapping + context + 0.5

    def found_in(self, names: torch.Tensor) -> float:
        """Share of the words with a share of their own that are named. (N, slot_bytes)"""
        hit = (self.words[..., None] == named_in(names)[:, None, :]).any(dim=-1)
        return float(hit[self.shares > 0].float().mean())


def named_in(names: torch.Tensor) -> torch.Tensor:
    """The words of slots. (N, slot_bytes) -> (N, W)"""
    pieces = names[:, :-1].long().reshape(len(names), WORDS, 2)
    return pieces[..., 0] + 256 * pieces[..., 1]


def fitted(base: BaseModel, number: int) -> tuple[Windows, WordMixture]:
    """A mixture that has seen these windows."""
    windows = Windows(base, number)
    mixture = WordMixture(base, z_dim=D, words=WORDS)
    mixture.fit(windows.codes, windows.means)
    return windows, mixture


def test_the_words_of_a_window_are_named_whatever_the_context_adds() -> None:
    windows, mixture = fitted(model(500), 4000)
    names = mixture.encode(windows.codes)
    assert names.shape == (4000, 2 * WORDS + 1)
    assert names.dtype is torch.uint8
    assert windows.found_in(names) > 0.95
    mixture.load_state_dict(mixture.state_dict() | {"whitening": torch.eye(D)})
    assert windows.found_in(mixture.encode(windows.codes)) < 0.8  # what whitening is for


def test_what_the_words_say_comes_back() -> None:
    windows, mixture = fitted(model(500), 4000)
    back = mixture.decode(mixture.encode(windows.codes))
    expected = windows.means @ mixture.word_map.T + mixture.offset
    lost = (back - expected).square().sum() / expected.var(dim=0).sum() / len(back)
    assert lost < 0.1


def test_decoding_is_the_map_of_the_weighted_sum_whatever_map_was_used_before() -> None:
    base = model(500)
    windows, mixture = fitted(base, 400)
    names = mixture.encode(windows.codes)
    embedded = base.embedding_table[named_in(names)]  # (N, W, h)
    mixed = torch.einsum("nw,nwh->nh", mixture.weights[names[:, -1].long()], embedded)
    for factor in (1.0, -3.0):
        mixture.load_state_dict(mixture.state_dict() | {"word_map": factor * mixture.word_map})
        expected = mixed @ mixture.word_map.T + mixture.offset
        torch.testing.assert_close(mixture.decode(names), expected, rtol=1e-4, atol=1e-5)


def test_words_and_codebooks_lose_less_than_codebooks_of_as_many_bytes() -> None:
    base = model(500)
    windows = Windows(base, 4000)
    lost = []
    for words, stages in ((WORDS, 2), (0, 9)):
        quantiser = Quantiser(base, z_dim=D, words=words, stages=stages)
        quantiser.fit(windows.codes[:3000], windows.means[:3000])
        assert quantiser.slot_bytes == 9
        held_out = windows.codes[3000:]
        back = quantiser.decode(quantiser.encode(held_out))
        lost.append(float((back - held_out).square().sum()))
    assert lost[0] < 0.5 * lost[1]


def test_a_vocabulary_beyond_two_bytes_takes_three() -> None:
    base = model(66_000, hidden=8)
    mixture = WordMixture(base, z_dim=8, words=1)
    mixture.word_map.copy_(torch.eye(8))
    mixture.weights.fill_(1.0)
    word = 65_999
    names = mixture.encode(base.embedding_table[word][None])
    assert names.shape == (1, 4)
    assert mixture.slot_bytes == 4
    torch.testing.assert_close(mixture.decode(names)[0], base.embedding_table[word])


def test_a_word_beyond_the_vocabulary_is_an_error_and_not_another_word() -> None:
    mixture = WordMixture(model(500), z_dim=D, words=WORDS)
    with pytest.raises(IndexError):
        mixture.decode(torch.full((1, mixture.slot_bytes), 255, dtype=torch.uint8))
