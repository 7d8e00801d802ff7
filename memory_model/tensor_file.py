"""What a safetensors file says it holds, compared with what it should hold, before it is loaded."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from memory_model.errors import BundleError

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 8 << 20
BYTES = {"F32": 4, "F16": 2, "BF16": 2}
PEFT_PREFIX = "base_model.model."
Shape = tuple[int, ...]


def tensor_shapes(file: Path) -> dict[str, Shape]:
    """What the header says. Raises: BundleError: there is none."""
    return {name: shape for name, (_, shape) in _header(file)[0].items()}


def with_prefix(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Those whose names begin with ``prefix``, by the rest of their names."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def check_tensors(file: Path, expected: Mapping[str, Shape]) -> None:
    """Refuse a file that does not hold exactly these tensors, in a float type, end to end.

    Raises:
        BundleError: names the tensor, with both values.
    """
    found, data_bytes = _header(file)
    if found.keys() != expected.keys():
        raise BundleError(
            f"{file} holds the tensors {_some(found.keys() - expected.keys())} that do not belong "
            f"there and lacks {_some(expected.keys() - found.keys())}"
        )
    total = 0
    for name, (dtype, shape) in found.items():
        if dtype not in BYTES:
            raise BundleError(f"{file}: {name} is of type {dtype}, not one of {', '.join(BYTES)}")
        if shape != expected[name]:
            raise BundleError(f"{file}: {name} has shape {shape}, expected {expected[name]}")
        total += BYTES[dtype] * math.prod(shape)
    if total != data_bytes:
        raise BundleError(f"{file} has {data_bytes} bytes of tensors, its header says {total}")


def check_adapter(directory: Path, model: nn.Module) -> None:
    """The same of a PEFT LoRA: every pair (r, in) and (out, r) of a layer of ``model``.

    Raises: BundleError.
    """
    file = directory / "adapter_model.safetensors"
    try:
        rank = json.loads((directory / "adapter_config.json").read_bytes())["r"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{directory} has no readable adapter_config.json: {error}") from error
    expected: dict[str, Shape] = {}
    for name in _header(file)[0]:
        path, _, _side = name.removeprefix(PEFT_PREFIX).removesuffix(".weight").rpartition(".")
        try:
            weight: Any = model.get_submodule(path).weight
        except AttributeError:
            raise BundleError(f"{file}: {name} is of no layer of this model") from None
        outputs, inputs = weight.shape
        if not isinstance(rank, int) or not 0 < rank <= max(outputs, inputs):
            raise BundleError(f"{file}: rank {rank} does not fit {path}, ({outputs}, {inputs})")
        expected[f"{PEFT_PREFIX}{path}.lora_A.weight"] = (rank, inputs)
        expected[f"{PEFT_PREFIX}{path}.lora_B.weight"] = (outputs, rank)
    check_tensors(file, expected)


def _header(file: Path) -> tuple[dict[str, tuple[str, Shape]], int]:
    """(dtype, shape) of every tensor, and how many bytes follow the header."""
    try:
        size = file.stat().st_size
        with file.open("rb") as handle:
            length = int.from_bytes(handle.read(LENGTH_BYTES), "little")
            if length > min(size - LENGTH_BYTES, MAX_HEADER_BYTES):
                raise BundleError(
                    f"{file} says its header has {length} bytes; the file has {size}, and "
                    f"{MAX_HEADER_BYTES} are the most"
                )
            entries: dict[str, Any] = json.loads(handle.read(length))
        entries.pop("__metadata__", None)
        tensors = {
            name: (str(entry["dtype"]), tuple(int(side) for side in entry["shape"]))
            for name, entry in entries.items()
        }
    except FileNotFoundError:
        raise BundleError(f"{file} is missing from the bundle") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BundleError(f"{file} has no header of tensors: {error}") from error
    return tensors, size - LENGTH_BYTES - length


def _some(names: Any) -> str:
    return ", ".join(sorted(names)[:3]) or "none"
