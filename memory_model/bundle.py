"""The bundle: one directory holding everything that was trained (or computed in closed form).

    bundle.json         configuration, base model, checksums
    heads.safetensors   compressor heads, expander, selector
    codebooks.safetensors   the quantiser                           (absent if it has none)
    write_adapter/      PEFT LoRA of the compressor's layers        (absent if untrained)
    read_adapter/       PEFT LoRA of the reader                     (absent if untrained)

Beside it, in a directory of the same name and ``-text``, lies the rival: a PEFT LoRA of the same
LLM trained to read passages as text. Nothing but comparisons needs it.

A memory is readable only by the bundle that wrote it: the fingerprint covers the base weights,
tokenizer, adapters, heads, template and slot layout, but not the rival.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypedDict, cast

from pydantic import BaseModel as Schema
from pydantic import ConfigDict, ValidationError
from safetensors.torch import load_file, save_file
from torch import nn

from memory_model.base import BaseModel
from memory_model.compressor import Compressor
from memory_model.encoder import Encoder, first_layers
from memory_model.errors import BundleError, BundleMismatchError
from memory_model.expander import Expander
from memory_model.quantiser import Quantiser
from memory_model.selector import Selector
from memory_model.slot_quantiser import SlotQuantiser
from memory_model.template import Template
from memory_model.tensor_file import check_adapter, check_tensors, tensor_shapes, with_prefix

CONFIG = "bundle.json"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
HEADS = "heads.safetensors"
CODEBOOKS = "codebooks.safetensors"
INFORMATION = "compressor.token_information"
WEIGHTS = "mixture.weights"  # in CODEBOOKS, if the quantiser names words
MOST_WORDS, MOST_STAGES = 16, 64
WRITE_ADAPTER: Final = "write_adapter"
READ_ADAPTER: Final = "read_adapter"
TEXT_ADAPTER: Final = "text_adapter"


NOT_OF_MEMORIES = {"base_model", "trained", "score_margin", "coarse_slots", "rival_checksums"}
"""What a memory does not depend on: another name, or how many are read in which way."""


class BundleConfig(Schema):
    """Contents of ``bundle.json``. Unknown keys are an error: a newer format must be refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format_version: Literal[1, 2] = 2  # 1: without INFORMATION, its windows are even
    base_model: str  # name, for people; weights_hash decides
    weights_hash: str
    slots: int  # m
    z_dim: int  # d
    layers: int  # of the LLM that the compressor reads with
    template: Template
    trained: bool
    score_margin: float | None = None
    """The service reads memories that the re-ranker scores at most so far below the best, of a
    query that does not say. None = all that were selected."""
    coarse_slots: int | None = None
    """The service reads each memory but the best in so many slots, of a query that does not say.
    None = all of them."""
    checksums: dict[str, str] = {}  # relative file name -> sha256
    rival_checksums: dict[str, str] = {}  # the same, of the directory beside this one

    @property
    def fingerprint(self) -> str:
        """Identity of everything a memory depends on."""
        covered = self.model_dump_json(exclude=NOT_OF_MEMORIES)
        return hashlib.sha256(covered.encode()).hexdigest()[:32]


class Heads(TypedDict):
    """The trained modules beside the LLM, by their prefix in ``heads.safetensors``."""

    compressor: Compressor
    expander: Expander
    selector: Selector


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle bound to its base model, whose LLM has the reader's adapter merged into it."""

    config: BundleConfig
    base: BaseModel
    compressor: Compressor
    expander: Expander
    selector: Selector
    quantiser: Quantiser | None  # None: codes are stored as numbers only

    @property
    def read_lm(self) -> Any:
        """The LLM that reads."""
        return self.base.lm

    @property
    def heads(self) -> Heads:
        return Heads(compressor=self.compressor, expander=self.expander, selector=self.selector)

    @property
    def encoders(self) -> tuple[Encoder, Encoder]:
        """What codes and what keys are made with."""
        return self.compressor.encoder, self.selector.encoder

    @property
    def fingerprint(self) -> str:
        return self.config.fingerprint

    @property
    def selections(self) -> tuple[str, ...]:
        """What it can select memories by, the best first: re-ranking takes a trained re-ranker."""
        return (*(("attention",) if self.config.trained else ()), "router", "cosine")

    @property
    def slot_quantiser(self) -> SlotQuantiser | None:
        """The quantiser as a store takes it."""
        return None if self.quantiser is None else SlotQuantiser(self.quantiser)


def load_bundle(directory: Path, base: BaseModel, *, reader: str = READ_ADAPTER) -> Bundle:
    """Open a bundle and check it against its checksums and its base model.

    A trained bundle changes ``base``: the reader's adapter is merged into the LLM's own weights,
    so that one copy of them is in memory.

    Args:
        reader: which adapter reads; ``TEXT_ADAPTER`` for the text-reading rival.

    Raises:
        BundleError: missing, damaged or of a newer format; names the file.
        BundleMismatchError: made for another base model; gives both hashes.
    """
    config = read_config(directory)
    _check_files(directory, config.checksums)
    adapter = directory / reader
    if reader == TEXT_ADAPTER:
        adapter = rival_directory(directory)
        _check_files(adapter, config.rival_checksums)
    if config.weights_hash != base.weights_hash:
        raise BundleMismatchError(
            f"bundle {directory} was made for base weights {config.weights_hash} "
            f"({config.base_model}), but {base.name} has {base.weights_hash}; set PARAMEM_MODEL "
            "to the bundle's base model, or PARAMEM_BUNDLE to a bundle of this model"
        )
    modules = build_heads(config, base, trunk=_trunk(directory, config, base, adapter))
    if adapter.is_dir():
        _merged(base.lm, adapter)
    expected = {
        f"{name}.{part}": tuple(tensor.shape)
        for name, head in modules.items()
        for part, tensor in cast(nn.Module, head).state_dict().items()
    }
    if config.format_version == 1:
        del expected[INFORMATION]
    check_tensors(directory / HEADS, expected)
    try:
        load_heads(directory, modules)
    except RuntimeError as error:
        raise BundleError(
            f"{directory / HEADS} does not hold the expected heads: {error}"
        ) from error
    for head in modules.values():
        cast(nn.Module, head).eval().requires_grad_(False)
    return Bundle(config, base, **modules, quantiser=load_quantiser(directory, base))


def load_heads(directory: Path, heads: Heads) -> None:
    """Fill modules with what a bundle of either format holds.

    Raises:
        FileNotFoundError: the bundle has no heads.
        RuntimeError: they have other names or shapes.
    """
    tensors = load_file(directory / HEADS)
    tensors.setdefault(INFORMATION, heads["compressor"].token_information)  # format 1 has none
    for name, head in heads.items():
        cast(nn.Module, head).load_state_dict(with_prefix(tensors, f"{name}."))


def load_quantiser(directory: Path, base: BaseModel) -> Quantiser | None:
    """The quantiser of a bundle, if it has one. Raises: BundleError: of another shape."""
    file = directory / CODEBOOKS
    if not file.is_file():
        return None
    shapes = tensor_shapes(file)
    words, stages = (shapes.get(WEIGHTS) or (0,))[-1], (shapes.get("codebooks") or (0,))[0]
    if words > MOST_WORDS or not 0 < stages <= MOST_STAGES:
        raise BundleError(
            f"{file} names {words} words and {stages} codewords a slot; at most {MOST_WORDS} and "
            f"{MOST_STAGES} make sense"
        )
    z_dim = read_config(directory).z_dim
    quantiser = Quantiser(base, z_dim=z_dim, words=words, stages=stages)
    check_tensors(file, {name: tuple(t.shape) for name, t in quantiser.state_dict().items()})
    quantiser.load_state_dict(load_file(file))
    return quantiser.eval().requires_grad_(False).to(base.device)


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


def build_heads(config: BundleConfig, base: BaseModel, *, trunk: Any = None) -> Heads:
    """Modules of the bundle's shape on the base's device, not yet fitted.

    Args:
        trunk: of the compressor, with its own weights; None = it shares those of ``base.lm``, into
            which no adapter may go then.
    """
    compressor = Compressor(
        base, slots=config.slots, z_dim=config.z_dim, layers=config.layers, trunk=trunk
    )
    expander = Expander(z_dim=config.z_dim, hidden_size=base.hidden_size)
    selector = Selector(base, key_dim=config.z_dim, own_weights=trunk is not None)
    return Heads(
        compressor=compressor.to(base.device),
        expander=expander.to(base.device),
        selector=selector.to(base.device),
    )


def save_bundle(
    directory: Path,
    config: BundleConfig,
    heads: Heads,
    adapters: Sequence[Any] = (),
    quantiser: Quantiser | None = None,
) -> BundleConfig:
    """Write a bundle; it appears whole or not at all.

    Args:
        adapters: PEFT models; each of their adapters is saved in a folder of its name, in bf16, the
            text reader's beside the bundle.
        quantiser: None = the bundle has none.

    Returns: the configuration as written, with checksums.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = directory.with_name(f"{directory.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    tensors = {
        f"{name}.{key}": tensor.contiguous().cpu()
        for name, module in heads.items()
        for key, tensor in cast(nn.Module, module).state_dict().items()
    }
    save_file(tensors, temporary / HEADS)
    if quantiser is not None:
        state = {name: tensor.cpu() for name, tensor in quantiser.state_dict().items()}
        state["codebooks"] = state["codebooks"].half()
        save_file(state, temporary / CODEBOOKS)
    for model in adapters:
        model.save_pretrained(temporary)
    for card in temporary.glob("**/README.md"):  # PEFT's empty model cards
        card.unlink()
    for file in temporary.glob(f"*/{ADAPTER_WEIGHTS}"):  # in float32 where the LLM was
        save_file({name: tensor.bfloat16() for name, tensor in load_file(file).items()}, file)
    for file in temporary.glob(f"*/{ADAPTER_CONFIG}"):  # which PEFT writes in a set's order
        told = json.loads(file.read_bytes())
        told["target_modules"].sort()
        file.write_text(json.dumps(told, indent=2, sort_keys=True), encoding="utf-8")
    rival = rival_directory(directory)
    shutil.rmtree(rival, ignore_errors=True)
    if (temporary / TEXT_ADAPTER).is_dir():
        (temporary / TEXT_ADAPTER).rename(rival)
    config = config.model_copy(
        update={"checksums": _checksums(temporary), "rival_checksums": _checksums(rival)}
    )
    (temporary / CONFIG).write_text(config.model_dump_json(indent=2))
    temporary.rename(directory)
    return config


def _checksums(directory: Path) -> dict[str, str]:
    files = sorted(file for file in directory.rglob("*") if file.is_file())
    return {str(file.relative_to(directory)): _sha256(file) for file in files}


def rival_directory(bundle: Path) -> Path:
    """Where the text reader of a bundle lies."""
    return bundle.with_name(f"{bundle.name}-text")


def _check_files(directory: Path, checksums: dict[str, str]) -> None:
    for name, expected in checksums.items():
        if _sha256(directory / name) != expected:
            raise BundleError(
                f"{directory / name} is damaged (its checksum differs from {CONFIG}); "
                "restore the bundle from its source"
            )


def _trunk(directory: Path, config: BundleConfig, base: BaseModel, reader: Path) -> Any:
    """The compressor's layers with the write adapter, safe from the reader's; None if untrained."""
    if not ((directory / WRITE_ADAPTER).is_dir() or reader.is_dir()):
        return None
    trunk = first_layers(base.lm, config.layers, own_weights=True)
    if (directory / WRITE_ADAPTER).is_dir():
        return _merged(trunk, directory / WRITE_ADAPTER)
    return trunk


def _merged(model: Any, adapter: Path) -> Any:
    """The model with a LoRA merged into its own weights."""
    from peft import PeftModel

    check_adapter(adapter, model)
    return PeftModel.from_pretrained(model, adapter).merge_and_unload().eval()


def _sha256(file: Path) -> str:
    try:
        with file.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise BundleError(f"{file} is missing from the bundle") from error
