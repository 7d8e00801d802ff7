"""The training loop: stages of steps, checkpoints, metrics."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from pathlib import Path

import torch

from memory_model.bundle import READ_ADAPTER, TEXT_ADAPTER
from trainer_worker.train.checkpoint import Progress, load_checkpoint, save_checkpoint
from trainer_worker.train.codes import fit_quantiser, sampled_ids
from trainer_worker.train.config import Part, Stage, TrainConfig
from trainer_worker.train.dataset import TrainingSet
from trainer_worker.train.errors import TrainingError
from trainer_worker.train.metrics import MetricsLog
from trainer_worker.train.networks import Networks, scale_states
from trainer_worker.train.objective import Objective, Position
from trainer_worker.train.optimizer import MasterAdamW

SCALING_PASSAGES = 32
PART_RATES: dict[Part, float] = {"heads": 0.03, "selector": 0.03}
"""Of the learning rate: the heads' inputs are of unit scale and their outputs, token embeddings, of
a tenth of that; at the adapters' rate ten steps of Adam wreck what they start with (answer loss 0.6
-> 2.4, experiments/LOG.md)."""

Report = Callable[[dict[str, float | int | str]], None]


class Trainer:
    """Trains one set of networks through the stages of a configuration."""

    def __init__(
        self, config: TrainConfig, networks: Networks, data: TrainingSet, directory: Path
    ) -> None:
        self._config = config
        self._networks = networks
        self._data = data
        self._objective = Objective(config, networks, data)
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
        quantisation = self._config.quantisation
        if stage.quantised_share and quantisation and not networks.quantiser.is_fitted:
            fit_quantiser(networks, self._data, quantisation, self._config.seed)

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
            losses = self._objective.losses(position, random_)
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
