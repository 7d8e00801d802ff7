"""Training the re-ranker on frozen codes: minutes, after everything else.

Each question is scored against its own passage and hard negatives, the router's best of the other
passages (InfoNCE). Half of the questions are asked in lower case, as people type.

Symbols: P = passages, Q = questions, m = slots, d = code dimension, T = query tokens.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import torch
from torch.nn import functional

from memory_model.selector import Selector
from trainer_worker.train.codes import compress_all
from trainer_worker.train.config import RERANK_REPORT_QUESTIONS, RerankTraining
from trainer_worker.train.dataset import TrainingSet
from trainer_worker.train.networks import Networks
from trainer_worker.train.selection import cosines, read_features, whitening

TEMPERATURE = 0.05
BATCH = 16


def train_reranker(
    networks: Networks, data: TrainingSet, config: RerankTraining
) -> Iterator[dict[str, float | int | str]]:
    """Fit the re-ranker on part of a training set, from whatever it was.

    Yields: mean loss, and the share of questions whose own passage came first, of every
    ``RERANK_REPORT_QUESTIONS`` questions, measured before each step.
    """
    compressor, selector, random_ = networks.compressor, networks.selector, random.Random(0)
    passages = random_.sample(range(len(data.passages)), min(config.passages, len(data.passages)))
    row_of = {passage: row for row, passage in enumerate(passages)}
    questions = [question for question in data.questions if question.gold in row_of]
    questions = random_.sample(questions, min(config.questions, len(questions)))
    asked = [q.text.lower() if number % 2 else q.text for number, q in enumerate(questions)]
    codes = compress_all(compressor, [data.passages[number].token_ids for number in passages])
    gold = torch.tensor([row_of[question.gold] for question in questions])
    router = route(selector, [data.passages[number].text for number in passages], asked)  # (Q, P)
    reranker = selector.reranker
    whitening_of_slots(selector, codes)
    optimizer = torch.optim.AdamW(reranker.parameters(), lr=config.learning_rate, weight_decay=0.0)
    losses, first = [], []
    for number, text in enumerate(asked):
        rows = hard_negatives(router[number], int(gold[number]), config.negatives, random_)
        with torch.no_grad():
            query = compressor.compress_tokens([networks.base.tokenize(text)])[0]  # (T, d)
        scores = reranker(
            query, codes[rows].to(query), router[number, rows].to(query)
        )  # (1 + negatives,), the right one first
        loss = functional.cross_entropy(scores / TEMPERATURE, torch.tensor(0, device=scores.device))
        (loss / BATCH).backward()  # type: ignore[no-untyped-call]
        losses.append(loss.item())
        first.append(float(scores.argmax() == 0))
        last = number + 1 == len(asked)
        if (number + 1) % BATCH == 0 or last:
            torch.nn.utils.clip_grad_norm_(reranker.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        if (number + 1) % RERANK_REPORT_QUESTIONS == 0 or last:
            loss_mean = round(sum(losses) / len(losses), 5)
            yield {
                "stage": "reranking",
                "loss": loss_mean,
                "reranking": loss_mean,
                "selected_first": round(sum(first) / len(first), 5),
            }
            losses, first = [], []


@torch.no_grad()
def route(selector: Selector, passages: Sequence[str], questions: Sequence[str]) -> torch.Tensor:
    """The router's scores of all passages for all questions. Returns: (Q, P) in main memory."""
    asked = read_features(selector, questions)  # (Q, h)
    return cosines(selector, asked, read_features(selector, passages)).cpu()


def hard_negatives(
    scores: torch.Tensor, gold: int, number: int, random_: random.Random
) -> list[int]:
    """The gold row first, then ``number`` rows drawn from the router's best 4 x ``number``.

    Args:
        scores: (P,)
    """
    best = scores.topk(min(len(scores), 4 * number + 1)).indices.tolist()
    others = [row for row in best if row != gold]
    return [gold, *random_.sample(others, min(number, len(others)))]


@torch.no_grad()
def whitening_of_slots(selector: Selector, codes: torch.Tensor) -> None:
    """Start both heads of the re-ranker as the whitening of slots: a word then meets itself."""
    slots = codes[:: max(1, len(codes) // 200)].flatten(0, 1).float()  # (N, d)
    reranker = selector.reranker
    weight = whitening(slots)[: reranker.slot_head.out_features]  # (r, d)
    for head in (reranker.query_head, reranker.slot_head):
        head.weight.copy_(weight)
        head.bias.copy_(-weight @ slots.mean(dim=0))
    reranker.weight_head.weight.zero_()
    reranker.weight_head.bias.fill_(1.0)
    reranker.router_weight.fill_(1.0)
