"""The quantiser: bytes out, nearly the same codes back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from memory_model.base import BaseModel
from memory_model.bundle import Bundle
from memory_model.quantiser import Quantiser
from memory_model.slot_quantiser import SlotQuantiser


@pytest.fixture
def base(tiny_bundle: Bundle) -> BaseModel:
    return tiny_bundle.base


def codebooks_only(base: BaseModel, *, d: int, stages: int) -> Quantiser:
    return Quantiser(base, z_dim=d, words=0, stages=stages)


def clustered(number: int, d: int = 16) -> torch.Tensor:
    """Sums of one of 40 coarse and one of 40 fine vectors. (N, d)"""
    random = torch.Generator().manual_seed(0)
    coarse = torch.randn(40, d, generator=random)
    fine = 0.1 * torch.randn(40, d, generator=random)
    drawn = torch.randint(40, (2, number), generator=random)
    return coarse[drawn[0]] + fine[drawn[1]]


def unused(codes: torch.Tensor) -> torch.Tensor:
    """Means of windows for a quantiser that does not look at them."""
    return torch.empty(len(codes), 0)


def relative_loss(quantiser: Quantiser, codes: torch.Tensor) -> float:
    back = quantiser.decode(quantiser.encode(codes))
    return float((back - codes).square().sum() / codes.var(dim=0).sum() / len(codes))


def test_a_code_is_one_byte_a_stage_and_comes_back_nearly_whole(base: BaseModel) -> None:
    codes = clustered(4000)
    quantiser = codebooks_only(base, d=16, stages=4)
    quantiser.fit(codes[:3000], unused(codes))
    names = quantiser.encode(codes[3000:].reshape(10, 100, 16))
    assert names.shape == (10, 100, 4)
    assert names.dtype is torch.uint8
    assert quantiser.slot_bytes == 4
    assert relative_loss(quantiser, codes[3000:]) < 0.01


def test_every_further_stage_leaves_less(base: BaseModel) -> None:
    codes = torch.randn(2000, 16, generator=torch.Generator().manual_seed(1))
    losses = []
    for stages in (1, 2, 4, 8):
        quantiser = codebooks_only(base, d=16, stages=stages)
        quantiser.fit(codes, unused(codes))
        losses.append(relative_loss(quantiser, codes))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.2 * losses[0]


def test_the_nearest_codeword_is_chosen_at_every_stage(base: BaseModel) -> None:
    codes = torch.randn(50, 8, generator=torch.Generator().manual_seed(2))
    quantiser = codebooks_only(base, d=8, stages=2)
    fitted_on = torch.randn(2000, 8, generator=torch.Generator().manual_seed(3))
    quantiser.fit(fitted_on, unused(fitted_on))
    names = quantiser.encode(codes).long()
    first, second = quantiser.codebooks
    assert torch.equal(names[:, 0], torch.cdist(codes, first).argmin(dim=1))
    rest = codes - first[names[:, 0]]
    assert torch.equal(names[:, 1], torch.cdist(rest, second).argmin(dim=1))


def test_the_codebooks_follow_codes_that_drift(base: BaseModel) -> None:
    codes = clustered(4000)
    quantiser = codebooks_only(base, d=16, stages=4)
    quantiser.fit(codes, unused(codes))
    drifted = 1.3 * codes + 0.5
    before = relative_loss(quantiser, drifted)
    for start in range(0, len(drifted), 400):
        quantiser.follow(drifted[start : start + 400])
    after = relative_loss(quantiser, drifted)
    assert after < 0.5 * before


def test_it_knows_whether_it_was_fitted(base: BaseModel) -> None:
    quantiser = codebooks_only(base, d=8, stages=1)
    assert not quantiser.is_fitted
    codes = torch.randn(300, 8)
    quantiser.fit(codes, unused(codes))
    assert quantiser.is_fitted


def test_a_store_gets_the_same_bytes_and_codes_as_arrays(base: BaseModel) -> None:
    codes = clustered(600)
    quantiser = codebooks_only(base, d=16, stages=2)
    quantiser.fit(codes, unused(codes))
    some = codes[:12].reshape(3, 4, 16)
    stored = SlotQuantiser(quantiser)
    names = stored.encode(some.numpy())
    np.testing.assert_array_equal(names, quantiser.encode(some).numpy())
    names.flags.writeable = False  # as the rows of a shard are
    np.testing.assert_array_equal(stored.decode(names), quantiser.decode(quantiser.encode(some)))
