"""What a step minimises: a batch drawn, read, and its losses weighed as the stage says."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch.nn import functional

from memory_model.bundle import READ_ADAPTER, TEXT_ADAPTER
from trainer_worker.packing import Block, PackedOutput
from trainer_worker.train.codes import memory_codes, quantised
from trainer_worker.train.config import Stage, TrainConfig
from trainer_worker.train.dataset import Row, TrainingSet
from trainer_worker.train.end_to_end import EndToEndSelection, Selected
from trainer_worker.train.losses import (
    continuation_blocks,
    imitation,
    memory_contexts,
    question_blocks,
    read_blocks,
    reconstruction_blocks,
    teacher_divergence,
    text_contexts,
)
from trainer_worker.train.networks import Networks

QUESTION_TOKENS = 26
"""Typical tokens of a question and its answer, to size batches."""

SAID_SHARE = 0.45
"""Of a batch's rows: a passage is a hundred predictions of the vocabulary, a question five."""


@dataclass(frozen=True, slots=True)
class Position:
    """A step as its stage sees it."""

    stage: Stage
    step: int  # within the stage

    @property
    def tokens_per_slot(self) -> tuple[float, float]:
        """Least and most, while they grow to the stage's own."""
        low, high = self.stage.tokens_per_slot
        if not self.stage.ramp_steps:
            return low, high
        ramp = min(1.0, (self.step + 1) / self.stage.ramp_steps)
        return 1.0 + (low - 1.0) * ramp, 1.0 + (high - 1.0) * ramp


@dataclass(frozen=True, slots=True)
class Term:
    """A part of the loss; without weight it is only recorded."""

    name: str
    value: torch.Tensor  # ()
    weight: float


class Objective:
    """The losses of one set of networks on one set of data."""

    def __init__(self, config: TrainConfig, networks: Networks, data: TrainingSet) -> None:
        self._config = config
        self._networks = networks
        self._data = data

    def losses(self, position: Position, random_: random.Random) -> dict[str, torch.Tensor]:
        """All losses of a batch by name; "loss" is what to minimise."""
        stage = position.stage
        selected = self._select(random_) if stage.context == "selected" else None
        rows = selected.rows if selected else self._rows(random_)
        if stage.context == "text" or random_.random() < stage.text_share:
            return self._text_losses(rows)
        weights = selected.weights if selected else None
        terms = list(self._memory_terms(rows, position, random_, weights))
        if selected:
            terms.append(Term("retrieval", selected.loss, stage.retrieval_weight))
        total = sum((term.weight * term.value for term in terms), torch.zeros(()))
        return {"loss": total} | {term.name: term.value.detach() for term in terms}

    @cached_property
    def _selection(self) -> EndToEndSelection:
        return EndToEndSelection(self._networks.selector, self._data)

    def _select(self, random_: random.Random) -> Selected:
        """Questions of one K with what the selector gives them, about ``batch_tokens`` together."""
        config = self._config
        passages = random_.choice(config.passages_per_row)
        each = passages * config.passage_tokens + QUESTION_TOKENS
        number = min(max(1, config.batch_tokens // each), len(self._data.questions))
        return self._selection.select(
            random_.sample(range(len(self._data.questions)), number), passages
        )

    def _rows(self, random_: random.Random) -> list[Row]:
        """Rows of one K, about ``batch_tokens`` together."""
        config = self._config
        passages = random_.choice(config.passages_per_row)
        rows, tokens = [], 0
        while tokens < config.batch_tokens:
            row = self._data.sample(
                random_,
                passages=passages,
                questions=config.questions_per_row,
                absent_share=config.absent_share,
                best_first=config.best_first,
            )
            rows.append(row)
            tokens += sum(len(self._data.passages[p].token_ids) for p in row.passages)
            tokens += QUESTION_TOKENS * len(row.questions)
        return rows

    def _text_losses(self, rows: list[Row]) -> dict[str, torch.Tensor]:
        blocks = [question_blocks(self._data, row) for row in rows]
        contexts = text_contexts(self._networks, self._data, rows)
        output, targets = read_blocks(self._networks, contexts, blocks)
        loss = functional.cross_entropy(output.logits, targets)
        return {"loss": loss, "text_answer": loss.detach()}

    def _memory_terms(
        self,
        rows: list[Row],
        position: Position,
        random_: random.Random,
        weights: torch.Tensor | None,
    ) -> Iterator[Term]:
        """``weights``: (B, K) that the memories are multiplied by."""
        stage, data, networks = position.stage, self._data, self._networks
        tokens_per_slot = random_.uniform(*position.tokens_per_slot)
        yield Term("tokens_per_slot", torch.tensor(tokens_per_slot), 0.0)
        passages = sorted({passage for row in rows for passage in row.passages})
        codes = memory_codes(networks, data, passages, tokens_per_slot)
        quantises = random_.random() < stage.quantised_share
        if quantises:
            codes, lost = quantised(networks.quantiser, codes)
            yield Term("quantisation", lost, stage.quantisation_weight)
        by_passage = dict(zip(passages, codes, strict=True))
        coarse_slots = self._config.coarse_slots
        contexts = memory_contexts(networks, rows, by_passage, weights, coarse_slots)
        blocks = [question_blocks(data, row) for row in rows]
        with_states = bool(stage.imitation_weight)
        output, targets = read_blocks(networks, contexts, blocks, with_states=with_states)
        name = "quantised_answer" if quantises else "answer"
        yield Term(name, functional.cross_entropy(output.logits, targets), 1.0)
        if stage.teacher_weight or stage.imitation_weight:
            teacher = self._teacher(rows, stage)
            if stage.teacher_weight:
                divergence = teacher_divergence(output.logits, teacher.logits)
                yield Term("teacher", divergence, stage.teacher_weight)
            if stage.imitation_weight:
                yield Term("imitation", imitation(output, teacher), stage.imitation_weight)
        if len(rows[0].passages) == 1:
            said = math.ceil(SAID_SHARE * len(rows))
            yield from self._said_terms(rows[:said], contexts[:said], stage)

    def _said_terms(
        self, rows: list[Row], contexts: list[torch.Tensor], stage: Stage
    ) -> Iterator[Term]:
        """Passages said after a memory."""
        networks, data = self._networks, self._data
        said: list[tuple[str, list[list[Block]], float]] = []
        if weight := stage.reconstruction_weight:
            said.append(("reconstruction", reconstruction_blocks(data, rows), weight))
        if weight := stage.continuation_weight:
            said.append(("continuation", continuation_blocks(networks, data, rows), weight))
        for name, blocks, weight in said:
            if any(blocks):
                output, targets = read_blocks(networks, contexts, blocks)
                yield Term(name, functional.cross_entropy(output.logits, targets), weight)

    @torch.no_grad()
    def _teacher(self, rows: list[Row], stage: Stage) -> PackedOutput:
        """The text reader on the same rows as text."""
        self._networks.read_with(TEXT_ADAPTER)
        contexts = text_contexts(self._networks, self._data, rows)
        blocks = [question_blocks(self._data, row) for row in rows]
        output, _ = read_blocks(
            self._networks, contexts, blocks, with_states=bool(stage.imitation_weight)
        )
        self._networks.read_with(READ_ADAPTER, frozen="reader" in stage.frozen)
        return output
