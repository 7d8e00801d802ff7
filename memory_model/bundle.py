"""The bundle: one directory holding everything that was trained (or computed in closed form).

    bundle.json         configuration, base model, checksums
    heads.safetensors   code head, expander
    write_adapter/      PEFT LoRA of the compressor   (absent in an untrained bundle)
    read_adapter/       PEFT LoRA of the reader       (absent in an untrained bundle)

A memory is readable only by the bundle that wrote it: the fingerprint covers the base weights,
tokenizer, adapters, heads, template and slot layout.
"""

from __future__ import annotations

import copy
import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel as Schema
from pydantic import ConfigDict, ValidationError
from safetensors.torch import load_file, save_file

from memory_model.base import BaseModel
from memory_model.compressor import Compressor
from memory_model.errors import BundleError, BundleMismatchError
from memory_model.expander import Expander
from memory_model.template import Template

CONFIG = "bundle.json"
HEADS = "heads.safetensors"
ADAPTERS = ("write_adapter", "read_adapter")


class BundleConfig(Schema):
    """Contents of ``bundle.json``. Unknown keys are an error: a newer format must be refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format_version: Literal[1] = 1
    base_model: str  # name, for people; weights_hash decides
    weights_hash: str
    slots: int  # m
    z_dim: int  # d
    layers: int  # of the LLM that the compressor reads with
    template: Template
    trained: bool
    checksums: dict[str, str] = {}  # relative file name -> sha256

    @property
    def fingerprint(self) -> str:
        """Identity of everything a memory depends on."""
        covered = self.model_dump_json(exclude={"base_model", "trained"})
        return hashlib.sha256(covered.encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle bound to its base model. ``read_lm`` has the read adapter merged."""

    config: BundleConfig
    base: BaseModel
    compressor: Compressor
    expander: Expander
    read_lm: Any

    @property
    def fingerprint(self) -> str:
        return self.config.fingerprint


def load_bundle(directory: Path, base: BaseModel) -> Bundle:
    """Open a bundle and check it against its checksums and its base model.

    Raises:
        BundleError: missing, damaged or of a newer format; names the file.
        BundleMismatchError: made for another base model; gives both hashes.
    """
    config = read_config(directory)
    for name, expected in config.checksums.items():
        if _sha256(directory / name) != expected:
            raise BundleError(
                f"{directory / name} is damaged (its checksum differs from {CONFIG}); "
                "restore the bundle from its source"
            )
    if config.weights_hash != base.weights_hash:
        raise BundleMismatchError(
            f"bundle {directory} was made for base weights {config.weights_hash} "
            f"({config.base_model}), but {base.name} has {base.weights_hash}; set PARAMEM_MODEL "
            "to the bundle's base model, or PARAMEM_BUNDLE to a bundle of this model"
        )
    write_lm = _merged(base, directory / ADAPTERS[0])
    compressor, expander = build_heads(config, base, write_lm=write_lm)
    heads = load_file(directory / HEADS)
    try:
        compressor.code_head.load_state_dict(_part(heads, "code_head."))
        expander.load_state_dict(_part(heads, "expander."))
    except RuntimeError as error:
        raise BundleError(
            f"{directory / HEADS} does not hold the expected heads: {error}"
        ) from error
    read_lm = _merged(base, directory / ADAPTERS[1]) or base.lm
    compressor.to(base.device).eval().requires_grad_(False)
    expander.to(base.device).eval().requires_grad_(False)
    return Bundle(config, base, compressor, expander, read_lm)


def read_config(directory: Path) -> BundleConfig:
    """Parse ``bundle.json``.

    Raises:
        BundleError: missing, not valid, or of a newer format.
    """
    file = directory / CONFIG
    try:
        return BundleConfig.model_validate_json(file.read_bytes())
    except FileNotFoundError as error:
        raise BundleError(f"{directory} is no bundle: {CONFIG} is missing") from error
    except ValidationError as error:
        raise BundleError(f"{file} is not a bundle this version can read: {error}") from error


def build_heads(
    config: BundleConfig, base: BaseModel, *, write_lm: Any = None
) -> tuple[Compressor, Expander]:
    """Compressor and expander of the bundle's shape, randomly initialised."""
    compressor = Compressor(
        base, slots=config.slots, z_dim=config.z_dim, layers=config.layers, write_lm=write_lm
    )
    expander = Expander(slots=config.slots, z_dim=config.z_dim, hidden_size=base.hidden_size)
    return compressor.to(base.device), expander.to(base.device)


def save_bundle(
    directory: Path,
    config: BundleConfig,
    compressor: Compressor,
    expander: Expander,
    adapters: dict[str, Any] | None = None,
) -> BundleConfig:
    """Write a bundle; it appears whole or not at all.

    Args:
        adapters: PEFT models by folder name (``write_adapter``, ``read_adapter``).

    Returns: the configuration as written, with checksums.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = directory.with_name(f"{directory.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    heads = {
        f"code_head.{name}": tensor for name, tensor in compressor.code_head.state_dict().items()
    }
    heads |= {f"expander.{name}": tensor for name, tensor in expander.state_dict().items()}
    save_file(
        {name: tensor.contiguous().cpu() for name, tensor in heads.items()}, temporary / HEADS
    )
    for name, adapter in (adapters or {}).items():
        adapter.save_pretrained(temporary / name)
    files = sorted(file for file in temporary.rglob("*") if file.is_file())
    checksums = {str(file.relative_to(temporary)): _sha256(file) for file in files}
    config = config.model_copy(update={"checksums": checksums})
    (temporary / CONFIG).write_text(config.model_dump_json(indent=2))
    temporary.rename(directory)
    return config


def _merged(base: BaseModel, adapter: Path) -> Any:
    """The base with a LoRA merged into a copy of its weights, or None if there is no adapter."""
    if not adapter.is_dir():
        return None
    from peft import PeftModel

    return PeftModel.from_pretrained(copy.deepcopy(base.lm), adapter).merge_and_unload().eval()


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _sha256(file: Path) -> str:
    try:
        with file.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise BundleError(f"{file} is missing from the bundle") from error
