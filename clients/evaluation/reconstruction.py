"""How much of a passage its memory holds: likelihood from the store, recitation by the LLM.

L = tokens of a passage; nats_per_token is −log P(D|z) / L, teacher-forced.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from clients.results import Memory, Reconstruction

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer

WITH, WITHOUT = "nats_per_token", "nats_per_token_without_memory"


@dataclass(frozen=True, slots=True)
class Likelihood:
    """Of all passages that were measured, weighted by their tokens."""

    nats_per_token: float
    nats_per_token_without_memory: float
    passages: int

    @property
    def perplexity(self) -> float:
        return math.exp(self.nats_per_token)

    @property
    def perplexity_without_memory(self) -> float:
        return math.exp(self.nats_per_token_without_memory)

    @property
    def nats_removed_percent(self) -> float:
        """100 = the memory leaves nothing to guess; 0 = it is no help."""
        if self.nats_per_token_without_memory == 0:
            return 0.0
        return 100.0 * (1.0 - self.nats_per_token / self.nats_per_token_without_memory)


def likelihood(memories: Sequence[Memory]) -> Likelihood | None:
    """None when the writer measured nothing, as the fast tier may not."""
    rows = [
        (passage.num_tokens, float(passage.stats[WITH]), float(passage.stats[WITHOUT]))
        for memory in memories
        for passage in memory.passages
        if WITH in passage.stats and WITHOUT in passage.stats and passage.num_tokens > 0
    ]
    num_tokens = sum(tokens for tokens, _, _ in rows)
    if not rows:
        return None
    return Likelihood(
        sum(tokens * nats for tokens, nats, _ in rows) / num_tokens,
        sum(tokens * nats for tokens, _, nats in rows) / num_tokens,
        len(rows),
    )


def rouge_l(text: str, memory: Memory, recited: Reconstruction) -> float:
    """ROUGE-L F1 of the recited passages against the document's own, mean over passages."""
    spans = {passage.passage: passage for passage in memory.passages}
    scores = [
        _rouge_l(text[spans[one.passage].text_start : spans[one.passage].text_end], one.text)
        for one in recited.passages
        if one.passage in spans
    ]
    return sum(scores) / len(scores) if scores else 0.0


def _rouge_l(reference: str, recited: str) -> float:
    return float(_scorer().score(reference, recited)["rougeL"].fmeasure)


@cache
def _scorer() -> RougeScorer:
    from rouge_score import rouge_scorer  # it brings nltk: a quarter of a second in every command

    return rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)
