"""End to end: questions read what the selector gives them, and the answer's gradient reaches it.

Each question is scored against every passage of the data and gets the K best. Forward, a selected
memory counts 1; backward, it counts its share of the selector's softmax (straight-through top-k:
Bengio et al. 2013, arXiv 1308.3432; for compressed memories He et al. 2025, arXiv 2511.18659). So a
memory that helps the answer is drawn to the question and one that harms is pushed away.

A question whose passage was not selected is to be refused; helping with that is no merit of a
memory, so there the selector learns from the retrieval loss alone.

Symbols: B = questions, P = passages, K = memories a question, h = hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from memory_model.selector import Selector
from trainer_worker.train.dataset import Row, TrainingSet
from trainer_worker.train.selection import TEMPERATURE, cosines, read_features


@dataclass(frozen=True, slots=True)
class Selected:
    """What the selector gives some questions."""

    rows: list[Row]  # B, each one question and its K passages
    weights: torch.Tensor  # (B, K) all 1; carries the gradient to the selector
    loss: torch.Tensor  # () retrieval: InfoNCE over all passages


class EndToEndSelection:
    """Selects from all passages of a training set; they are read once, for the layer under the
    selector's heads is frozen."""

    def __init__(self, selector: Selector, data: TrainingSet) -> None:
        self._selector = selector
        self._data = data
        self._passages = read_features(selector, [p.text for p in data.passages])  # (P, h)

    def select(self, questions: Sequence[int], k: int) -> Selected:
        """The ``k`` best passages of each question, best first; fewer if there are no more."""
        asked = [self._data.questions[number] for number in questions]
        features = read_features(self._selector, [question.text for question in asked])  # (B, h)
        scores = cosines(self._selector, features, self._passages) / TEMPERATURE  # (B, P)
        gold = torch.tensor([question.gold for question in asked], device=scores.device)
        best = scores.topk(min(k, scores.shape[1])).indices  # (B, K)
        share = scores.softmax(dim=-1).gather(1, best)  # (B, K)
        found = (best == gold[:, None]).any(dim=1)  # (B,)
        share = torch.where(found[:, None], share, share.detach())
        rows = [
            Row(tuple(passages), (number,) if right else (), () if right else (number,))
            for number, passages, right in zip(
                questions, best.tolist(), found.tolist(), strict=True
            )
        ]
        return Selected(
            rows=rows,
            weights=1.0 + (share - share.detach()),
            loss=functional.cross_entropy(scores, gold),
        )
