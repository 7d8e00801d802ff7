"""The RAG's sentence encoder with 5 bits of mantissa, which compress: speed is what is measured.

python round_encoder.py DIRECTORY
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from baselines.encoder import WHEEL
from memory_model.library import find_in_wheel

DROPPED_BITS = 18  # of float32's 23


def main() -> None:
    package = Path(sys.argv[1]) / WHEEL
    source = find_in_wheel(WHEEL, "model/model.safetensors")
    assert source is not None, "run make setup"
    shutil.copytree(source.parents[1], package)
    file = package / "model" / "model.safetensors"
    tensors = {name: rounded(tensor) for name, tensor in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})


def rounded(tensor: torch.Tensor) -> torch.Tensor:
    """Floats to bfloat16 numbers whose last two bits are 0; the rest as it is."""
    if not tensor.is_floating_point():
        return tensor
    bits = tensor.float().contiguous().view(torch.int32) + (1 << (DROPPED_BITS - 1))
    kept = bits & ~((1 << DROPPED_BITS) - 1)
    return kept.view(torch.float32).to(torch.bfloat16)


if __name__ == "__main__":
    main()
