"""Training the selector: two linear heads on frozen features, seconds for a whole data set.

The layer under the heads is frozen, so every passage and question is read once. Both heads start as
a whitening of the features, each around its own mean (texts share a few directions of huge variance
that otherwise decide every cosine); then every question is scored against *all* passages, so there
is no negative left to mine. (InfoNCE: van den Oord et al. 2018, arXiv 1807.03748, with the whole
corpus as the batch.)

Symbols: P = passages, Q = questions, h = hidden size, d = key dimension.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.nn import functional

from memory_model.selector import Selector
from trainer_worker.train.config import SelectionTraining
from trainer_worker.train.dataset import TrainingSet

WHITENING_RIDGE = 0.1  # of the mean eigenvalue: keeps rare directions from being blown up
TEMPERATURE = 0.05
BATCH = 64
"""Texts read at once."""


def train_selector(
    selector: Selector, data: TrainingSet, config: SelectionTraining
) -> Iterator[dict[str, float | int | str]]:
    """Fit both heads to a training set, from whatever they were; an epoch each time it is asked.

    Yields: the epoch's mean loss, and the share of questions whose own passage ranked first, both
    measured before each step.
    """
    passages = read_features(selector, [passage.text for passage in data.passages])  # (P, h)
    questions = read_features(selector, [question.text for question in data.questions])  # (Q, h)
    gold = torch.tensor([question.gold for question in data.questions], device=passages.device)
    whiten(selector, passages, questions)
    heads = [*selector.key_head.parameters(), *selector.query_head.parameters()]
    optimizer = torch.optim.AdamW(heads, lr=config.learning_rate, weight_decay=0.0)
    shuffle = torch.Generator().manual_seed(0)
    for epoch in range(config.epochs):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * (1 - epoch / config.epochs)
        losses, first = [], []
        for some in torch.split(
            torch.randperm(len(gold), generator=shuffle), config.batch_questions
        ):
            scores = cosines(selector, questions[some], passages) / TEMPERATURE  # (b, P)
            loss = functional.cross_entropy(scores, gold[some])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.item())
            first.append((scores.argmax(dim=-1) == gold[some]).float().mean().item())
        loss_mean = round(sum(losses) / len(losses), 5)
        yield {
            "stage": "selection",
            "loss": loss_mean,
            "selection": loss_mean,
            "selected_first": round(sum(first) / len(first), 5),
        }


def cosines(selector: Selector, questions: torch.Tensor, passages: torch.Tensor) -> torch.Tensor:
    """The router's scores, from features. (Q, h), (P, h) -> (Q, P)"""
    keys = functional.normalize(selector.key_head(passages), dim=-1)  # (P, d)
    queries = functional.normalize(selector.query_head(questions), dim=-1)  # (Q, d)
    return queries @ keys.T


@torch.no_grad()
def read_features(selector: Selector, texts: Sequence[str]) -> torch.Tensor:
    """Features of many texts, read in batches of like length. Returns: (N, h) float32."""
    order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
    features = torch.cat(
        [
            selector.features([texts[number] for number in order[start : start + BATCH]])
            for start in range(0, len(order), BATCH)
        ]
    )
    unsorted = torch.empty_like(features)
    unsorted[torch.tensor(order, device=features.device)] = features
    return unsorted


@torch.no_grad()
def whiten(selector: Selector, passages: torch.Tensor, questions: torch.Tensor) -> None:
    """Set both heads to Λ^(-1/2) Vᵀ (x - mean): one whitening, of passages; each its own mean.

    Args:
        passages: (P, h). questions: (Q, h).
    """
    weight = whitening(passages)[: selector.key_head.out_features]  # (d, h)
    for head, features in ((selector.key_head, passages), (selector.query_head, questions)):
        head.weight.copy_(weight)
        head.bias.copy_(-weight @ features.mean(dim=0))


def whitening(features: torch.Tensor) -> torch.Tensor:
    """Λ^(-1/2) Vᵀ of (N, h), strongest direction first. Returns: (h, h)."""
    centred = features - features.mean(dim=0)
    variance, basis = torch.linalg.eigh(centred.T @ centred / len(centred))  # rising: (h,), (h, h)
    scale = (variance + WHITENING_RIDGE * variance.mean()).rsqrt()
    rows: torch.Tensor = scale[:, None] * basis.T
    return rows.flip(0)
