"""Checkpoints of a run: small files, whole or not there at all.

    checkpoints/<step>/state.json
    checkpoints/<step>/model-00001-of-0000n.safetensors   at most 15 MB each

Adam's moments are not kept (they are four times the adapters): after a resume the learning rate
warms up again while they form.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import load_file

SHARD_SIZE = "15MB"
STATE = "state.json"


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands: the next step to take, counted over all stages."""

    step: int


def save_checkpoint(
    directory: Path, progress: Progress, tensors: dict[str, torch.Tensor], *, keep: int = 1
) -> Path:
    """Write a checkpoint and delete all but the newest ``keep``. Returns: its folder."""
    directory.mkdir(parents=True, exist_ok=True)
    target = directory / f"{progress.step:07d}"
    temporary = directory / f".{target.name}.{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_torch_state_dict(contiguous, temporary, max_shard_size=SHARD_SIZE)
    (temporary / STATE).write_text(json.dumps(asdict(progress)))
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)
    for old in _all(directory)[:-keep]:
        shutil.rmtree(old)
    return target


def load_checkpoint(directory: Path) -> tuple[Progress, dict[str, torch.Tensor]] | None:
    """The newest checkpoint, or None if there is none."""
    checkpoints = _all(directory)
    if not checkpoints:
        return None
    newest = checkpoints[-1]
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(newest.glob("*.safetensors")):
        tensors |= load_file(file)
    return Progress(**json.loads((newest / STATE).read_text())), tensors


def _all(directory: Path) -> list[Path]:
    return sorted(path.parent for path in directory.glob(f"[0-9]*/{STATE}"))
