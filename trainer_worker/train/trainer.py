"""The training loop: stages of steps, checkpoints, metrics."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch.nn import functional

from memory_model.bundle import READ_ADAPTER, TEXT_ADAPTER
from trainer_worker.train.checkpoint import Progress, load_checkpoint, save_checkpoint
from trainer_worker.train.codes import fit_quantiser, memory_codes, quantised, sampled_ids
from trainer_worker.train.config import Part, Stage, TrainConfig
from trainer_worker.train.dataset import Row, TrainingSet
from trainer_worker.train.end_to_end import EndToEndSelection, Selected
from trainer_worker.train.errors import TrainingError
from trainer_worker.train.losses import (
    imitation,
    memory_contexts,
    question_blocks,
    read_blocks,
    reconstruction_blocks,
    teacher_divergence,
    text_contexts,
)
from trainer_worker.train.metrics import MetricsLog
from trainer_worker.train.networks import Networks, scale_states
from trainer_worker.train.optimizer import MasterAdamW
from trainer_worker.train.packing import PackedOutput

QUESTION_TOKENS = 26
"""Typical tokens of a question and its answer, to size batches."""

SCALING_PASSAGES = 32
RECONSTRUCTED_ROWS = 4
"""Of a batch: a passage is a hundred predictions of the vocabulary, a question five."""
PART_RATES: dict[Part, float] = {"heads": 0.03, "selector": 0.03}
"""Of the learning rate: the heads inputs are of unit scale and their outputs, token embeddings, of
a tenth of that; at the adapters' rate ten steps of Adam wreck what they start with (answer loss 0.6
-> 2.4, experiments/LOG.md)."""

Report = Callable[[dict[str, float | int | str]], None]


@dataclass(frozen=True, slots=True)
class Position:
    """A step as its stage sees it."""

    stage: Stage
    step: int  # within the stage


class Trainer:
    """Trains one set of networks through the stages of a configuration."""

    def __init__(
        self, config: TrainConfig, networks: Networks, data: TrainingSet, directory: Path
    ) -> None:
        self._config = config
        self._networks = networks
        self._data = data
        self._checkpoints = directory / "checkpoints"
        self._metrics = MetricsLog(directory / "metrics.jsonl")
        self.total_steps = sum(stage.steps for stage in config.stages)

    def resume(self) -> int:
        """Load the newest checkpoint, if there is one. Returns: the next step."""
        found = load_checkpoint(self._checkpoints)
        if found is None:
            return 0
        progress, tensors = found
        self._networks.load_state(tensors)
        return progress.step

    def train(self, start: int = 0, report: Report = lambda _values: None) -> None:
        """Take all steps from ``start`` on.

        Raises:
            TrainingError: a loss or gradient is not finite; the last checkpoint is kept.
        """
        step, saved = start, time.monotonic()
        while step < self.total_steps:
            position = self._at(step)
            if position.step == 0:
                self._begin(position.stage)
            optimizer = self._optimizer(position.stage)
            resumed_at = position.step
            while position.step < position.stage.steps:
                values = self._step(step, position, optimizer, resumed_at)
                step += 1
                position = Position(position.stage, position.step + 1)
                self._metrics.append(values)
                report(values)
                if time.monotonic() - saved > self._config.checkpoint_every_s:
                    self._save(step)
                    saved = time.monotonic()
            self._save(step)

    def _begin(self, stage: Stage) -> None:
        """What a stage needs that none before it has made."""
        networks = self._networks
        if stage.context != "text" and self._config.start is None:
            earlier = self._config.stages[: self._config.stages.index(stage)]
            if all(other.context == "text" for other in earlier):
                networks.start_reading_memories()
                some = sampled_ids(self._data, SCALING_PASSAGES, self._config.seed)
                scale_states(networks.compressor, some)
        if stage.quantised_share and not networks.quantiser.is_fitted:
            fit_quantiser(networks, self._data, self._config)

    def _at(self, step: int) -> Position:
        for stage in self._config.stages:
            if step < stage.steps:
                return Position(stage, step)
            step -= stage.steps
        raise IndexError(step)

    def _optimizer(self, stage: Stage) -> MasterAdamW:
        networks = self._networks
        if stage.context == "text":
            networks.read_with(TEXT_ADAPTER)
            groups = [(networks.adapter_parameters(TEXT_ADAPTER), 1.0)]
        else:
            networks.read_with(READ_ADAPTER, frozen="reader" in stage.frozen)
            groups = []
            for part, parameters in networks.parts().items():
                for parameter in parameters:
                    parameter.requires_grad_(part in stage.trained)
                if part in stage.trained:
                    groups.append((parameters, PART_RATES.get(part, 1.0)))
        return MasterAdamW(groups, clip=self._config.clip_norm)

    def _step(
        self, step: int, position: Position, optimizer: MasterAdamW, resumed_at: int
    ) -> dict[str, float | int | str]:
        started = time.monotonic()
        stage = position.stage
        totals: dict[str, float] = {}
        for micro in range(self._config.accumulate):
            random_ = random.Random(f"{self._config.seed}/{step}/{micro}")
            losses = self._losses(position, random_)
            total = losses["loss"] / self._config.accumulate
            if not torch.isfinite(total):
                raise self._diverged(step)
            total.backward()  # type: ignore[no-untyped-call]
            for name, value in losses.items():
                totals[name] = totals.get(name, 0.0) + value.item() / self._config.accumulate
        rate = _learning_rate(stage, position.step, resumed_at)
        norm = optimizer.step(rate)
        if not math.isfinite(norm):
            raise self._diverged(step)
        return {
            "step": step,
            "stage": stage.name,
            **{name: round(value, 5) for name, value in totals.items()},
            "learning_rate": rate,
            "gradient_norm": round(norm, 4),
            "seconds": round(time.monotonic() - started, 3),
        }

    def _losses(self, position: Position, random_: random.Random) -> dict[str, torch.Tensor]:
        """All losses of a batch by name; "loss" is what to minimise."""
        stage = position.stage
        selected = self._select(random_) if stage.context == "selected" else None
        rows = selected.rows if selected else self._rows(random_)
        if stage.context == "text" or random_.random() < stage.text_share:
            return self._text_losses(rows)
        if selected is None:
            return self._memory_losses(rows, position, random_)
        losses = self._memory_losses(rows, position, random_, selected.weights)
        total = losses["loss"] + stage.retrieval_weight * selected.loss
        return losses | {"loss": total, "retrieval": selected.loss.detach()}

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

    def _memory_losses(
        self,
        rows: list[Row],
        position: Position,
        random_: random.Random,
        weights: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        stage, data, networks = position.stage, self._data, self._networks
        low, high = stage.tokens_per_slot
        if stage.ramp_steps:
            ramp = min(1.0, (position.step + 1) / stage.ramp_steps)
            low, high = 1.0 + (low - 1.0) * ramp, 1.0 + (high - 1.0) * ramp
        tokens_per_slot = random_.uniform(low, high)
        passages = sorted({passage for row in rows for passage in row.passages})
        codes = memory_codes(networks, data, passages, tokens_per_slot)
        quantises = random_.random() < stage.quantised_share
        lost = torch.zeros(())
        if quantises:
            codes, lost = quantised(networks.quantiser, codes)
        blocks = [question_blocks(data, row) for row in rows]
        teacher = self._teacher(rows, stage)
        contexts = memory_contexts(networks, rows, dict(zip(passages, codes, strict=True)), weights)
        output, targets = read_blocks(
            networks, contexts, blocks, with_states=bool(stage.imitation_weight)
        )
        answer = functional.cross_entropy(output.logits, targets)
        losses = {"answer": answer, "tokens_per_slot": torch.tensor(tokens_per_slot)}
        total = answer
        if quantises:
            losses |= {"quantised_answer": losses.pop("answer"), "quantisation": lost}
            total = total + stage.quantisation_weight * lost
        if teacher and stage.teacher_weight:
            losses["teacher"] = teacher_divergence(output.logits, teacher.logits)
            total = total + stage.teacher_weight * losses["teacher"]
        if teacher and stage.imitation_weight:
            losses["imitation"] = imitation(output, teacher)
            total = total + stage.imitation_weight * losses["imitation"]
        if stage.reconstruction_weight and len(rows[0].passages) == 1:
            some = rows[:RECONSTRUCTED_ROWS]
            said = [[block] for block in reconstruction_blocks(data, some)]
            output, targets = read_blocks(networks, contexts[: len(some)], said)
            losses["reconstruction"] = functional.cross_entropy(output.logits, targets)
            total = total + stage.reconstruction_weight * losses["reconstruction"]
        return {"loss": total} | {name: value.detach() for name, value in losses.items()}

    @torch.no_grad()
    def _teacher(self, rows: list[Row], stage: Stage) -> PackedOutput | None:
        """The text reader on the same rows as text, if anything is to be learnt from it."""
        if not (stage.teacher_weight or stage.imitation_weight):
            return None
        self._networks.read_with(TEXT_ADAPTER)
        contexts = text_contexts(self._networks, self._data, rows)
        blocks = [question_blocks(self._data, row) for row in rows]
        output, _ = read_blocks(
            self._networks, contexts, blocks, with_states=bool(stage.imitation_weight)
        )
        self._networks.read_with(READ_ADAPTER, frozen="reader" in stage.frozen)
        return output

    def _save(self, step: int) -> None:
        save_checkpoint(self._checkpoints, Progress(step), self._networks.state())

    def _diverged(self, step: int) -> TrainingError:
        return TrainingError(
            f"the loss or its gradient is not finite at step {step}; nothing was changed, and the "
            f"last good checkpoint is in {self._checkpoints}: lower the stage's learning_rate and "
            "run again with --resume"
        )


def _learning_rate(stage: Stage, step: int, resumed_at: int) -> float:
    """Linear warm-up (again after a resume), then linear decay to ``final_rate``."""
    warm = min(1.0, (step - resumed_at + 1) / max(1, stage.warmup_steps))
    decay = 1.0 - (1.0 - stage.final_rate) * step / max(1, stage.steps)
    return stage.learning_rate * warm * decay
