"""Codes of passages in training: as long as the curriculum says, and as coarse.

Symbols: P = passages, m = slots, N = slots of all passages, d = code dimension.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence

import torch

from memory_model.compressor import Compressor
from memory_model.quantiser import Quantiser
from trainer_worker.train.config import Quantisation
from trainer_worker.train.dataset import TrainingSet
from trainer_worker.train.networks import Networks

BATCH = 16
FITTED_SLOTS = 24_000
"""Naming the words of as many takes minutes on two cores; more change little."""


def memory_codes(
    networks: Networks, data: TrainingSet, passages: Sequence[int], tokens_per_slot: float
) -> list[torch.Tensor]:
    """Codes of each passage.

    Returns: one of (m_i, d) a passage, m_i = ceil(L_i / tokens), but never fewer than the m it
    will be served with.
    """
    token_ids = [data.passages[passage].token_ids for passage in passages]
    served = networks.compressor.slots
    slots = torch.tensor([max(served, math.ceil(len(ids) / tokens_per_slot)) for ids in token_ids])
    codes = networks.compressor.compress(token_ids, slots.to(networks.base.device))
    return [codes[i, : int(number)] for i, number in enumerate(slots)]


def quantised(
    quantiser: Quantiser, codes: Sequence[torch.Tensor]
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Codes as they come back from the quantiser.

    Where codes learn, gradients go straight through to them and the codebooks follow.

    Args:
        codes: P of (m_i, d).

    Returns: P of (m_i, d); and what was lost of them, relative to their variance ().
    """
    slots = torch.cat(list(codes))  # (N, d)
    if slots.requires_grad:
        quantiser.follow(slots.detach())
    decoded = quantiser.decode(quantiser.encode(slots))
    lost = (slots - decoded).square().sum(dim=-1).mean() / slots.detach().var(dim=0).sum()
    coarse = decoded + slots - slots.detach()
    return list(torch.split(coarse, [len(code) for code in codes])), lost


def sampled_ids(data: TrainingSet, number: int, seed: int) -> list[tuple[int, ...]]:
    """Tokens of ``number`` passages drawn by ``seed``, or of all if there are fewer."""
    passages = random.Random(seed).sample(data.passages, min(number, len(data.passages)))
    return [passage.token_ids for passage in passages]


@torch.no_grad()
def fit_quantiser(networks: Networks, data: TrainingSet, settings: Quantisation, seed: int) -> None:
    """Fit it on the codes that the compressor now makes of training passages."""
    sampled = sampled_ids(data, settings.passages, seed)
    codes, means = [], []
    for start in range(0, len(sampled), BATCH):
        embedded, states = networks.compressor.windows(sampled[start : start + BATCH])
        codes.append(networks.compressor.head(embedded, states).flatten(0, 1))  # (B * m, d)
        means.append(embedded.flatten(0, 1))  # (B * m, h)
    drawn = torch.randperm(sum(map(len, codes)), generator=torch.Generator().manual_seed(0))
    drawn = drawn[:FITTED_SLOTS].to(networks.base.device)
    networks.quantiser.fit(torch.cat(codes)[drawn], torch.cat(means)[drawn])


def train_quantiser(
    networks: Networks, data: TrainingSet, settings: Quantisation, seed: int
) -> Iterator[dict[str, float | int | str]]:
    """Fit it on the final codes. Yields: what it loses of other passages' codes."""
    fit_quantiser(networks, data, settings, seed)
    others = sampled_ids(data, BATCH, seed + 1)
    codes = compress_all(networks.compressor, others).flatten(0, 1).float()  # (N, d)
    codes = codes.to(networks.base.device)
    lost = codes - networks.quantiser.decode(networks.quantiser.encode(codes))
    share = round(float(lost.square().sum(dim=-1).mean() / codes.var(dim=0).sum()), 5)
    yield {"stage": "quantisation", "loss": share, "quantisation": share}


@torch.no_grad()
def compress_all(compressor: Compressor, token_ids: Sequence[Sequence[int]]) -> torch.Tensor:
    """Codes of many passages, as they are stored. Returns: (P, m, d) bf16 in main memory."""
    d = compressor.code_head.out_features
    codes = torch.empty(len(token_ids), compressor.slots, d, dtype=torch.bfloat16)
    order = sorted(range(len(token_ids)), key=lambda number: len(token_ids[number]))
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        codes[rows] = compressor.compress([token_ids[row] for row in rows]).bfloat16().cpu()
    return codes
