"""Small training runs: a stage of each kind, and what a run leaves behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from memory_model.base import load_base
from trainer_worker.train.config import TrainConfig
from trainer_worker.train.dataset import load_training_set
from trainer_worker.train.networks import build_networks
from trainer_worker.train.trainer import Trainer

TEXT = {"name": "text", "context": "text", "steps": 3, "learning_rate": 0.01, "warmup_steps": 1}
MEMORY = {
    "name": "memory",
    "context": "memory",
    "steps": 3,
    "learning_rate": 0.01,
    "warmup_steps": 1,
    "tokens_per_slot": [1.0, 3.0],
    "reconstruction_weight": 0.3,
    "teacher_weight": 0.5,
    "imitation_weight": 0.5,
}


def config(model: Path, *stages: dict[str, Any]) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "model": str(model),
            "datasets": ["toy-train"],
            "slots": 4,
            "z_dim": 32,
            "layers": 2,
            "write_rank": 2,
            "read_rank": 2,
            "passage_tokens": 64,
            "batch_tokens": 64,
            "passages_per_row": [1, 2],
            "stages": list(stages),
        }
    )


def trainer(run: TrainConfig, data: Path, directory: Path) -> Trainer:
    base = load_base(run.model, cache=directory / "cache", device="cpu")
    rows = load_training_set(data, run.datasets, base, run.template, run.passage_tokens)
    return Trainer(run, build_networks(run, base), rows, directory)


def stored(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Trained tensors as a bundle keeps them: adapters in bf16."""
    return {
        name: tensor.bfloat16().float() if "_adapter:" in name else tensor
        for name, tensor in state.items()
    }


def metrics(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
