"""The quantiser: bytes out, nearly the same codes back."""

from __future__ import annotations

import torch

from memory_model.quantiser import Quantiser


def clustered(number: int, d: int = 16) -> torch.Tensor:
    """Sums of one of 40 coarse and one of 40 fine vectors. (N, d)"""
    random = torch.Generator().manual_seed(0)
    coarse = torch.randn(40, d, generator=random)
    fine = 0.1 * torch.randn(40, d, generator=random)
    drawn = torch.randint(40, (2, number), generator=random)
    return coarse[drawn[0]] + fine[drawn[1]]


def relative_loss(quantiser: Quantiser, codes: torch.Tensor) -> float:
    with torch.no_grad():
        back = quantiser.decode(quantiser.encode(codes))
    return float((back - codes).square().sum() / codes.var(dim=0).sum() / len(codes))


def test_a_code_is_one_byte_a_stage_and_comes_back_nearly_whole() -> None:
    codes = clustered(4000)
    quantiser = Quantiser(z_dim=16, stages=4)
    quantiser.fit(codes[:3000])
    names = quantiser.encode(codes[3000:].reshape(10, 100, 16))
    assert names.shape == (10, 100, 4)
    assert names.dtype is torch.uint8
    assert relative_loss(quantiser, codes[3000:]) < 0.01


def test_every_further_stage_leaves_less() -> None:
    codes = torch.randn(2000, 16, generator=torch.Generator().manual_seed(1))
    losses = []
    for stages in (1, 2, 4, 8):
        quantiser = Quantiser(z_dim=16, stages=stages)
        quantiser.fit(codes)
        losses.append(relative_loss(quantiser, codes))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.2 * losses[0]


def test_the_nearest_codeword_is_chosen_at_every_stage() -> None:
    codes = torch.randn(50, 8, generator=torch.Generator().manual_seed(2))
    quantiser = Quantiser(z_dim=8, stages=2)
    quantiser.fit(torch.randn(2000, 8, generator=torch.Generator().manual_seed(3)))
    names = quantiser.encode(codes).long()
    first, second = quantiser.codebooks.detach()
    assert torch.equal(names[:, 0], torch.cdist(codes, first).argmin(dim=1))
    rest = codes - first[names[:, 0]]
    assert torch.equal(names[:, 1], torch.cdist(rest, second).argmin(dim=1))


def test_the_codebooks_follow_codes_that_drift() -> None:
    codes = clustered(4000)
    quantiser = Quantiser(z_dim=16, stages=4)
    quantiser.fit(codes)
    drifted = 1.3 * codes + 0.5
    before = relative_loss(quantiser, drifted)
    for some in drifted.split(400):
        quantiser.follow(some)
    after = relative_loss(quantiser, drifted)
    assert after < 0.5 * before


def test_it_knows_whether_it_was_fitted() -> None:
    quantiser = Quantiser(z_dim=8, stages=1)
    assert not quantiser.is_fitted
    quantiser.fit(torch.randn(300, 8))
    assert quantiser.is_fitted
