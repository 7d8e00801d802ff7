"""The reader as a plain model directory: its LoRA merged, nothing of ours in it.

For engines that load weights themselves. Exported once for each bundle, reader and dtype and kept
under the cache, with a checksum of every file.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import xxhash

from memory_model.bundle import Bundle
from memory_model.errors import BundleError
from memory_model.library import locked
from paramem.settings import ReaderKind

CHECKSUMS = "checksums.json"
BLOCK_BYTES = 1 << 22


def export_reader(bundle: Bundle, cache: Path, reader: ReaderKind) -> Path:
    """Directory of config, safetensors and tokenizer. Safe to call from many processes.

    Takes the size of the LLM on the disk. What lies there already is used if it is whole.

    Args:
        reader: whose LoRA ``bundle`` was loaded with.

    Raises:
        BundleError: the weights are quantised, so that the LoRA cannot be merged exactly.
    """
    base = bundle.base
    if base.quantization != "none":
        raise BundleError(
            f"weights in {base.quantization} cannot be exported: set PARAMEM_QUANTIZATION=none, "
            "for the worker too (memories of another quantisation are not readable)"
        )
    root = cache / "merged"
    directory = root / _name(bundle, reader)
    with locked(root / f"{directory.name}.lock"):
        if not is_whole(directory):
            _export(bundle, directory)
    return directory


def is_whole(directory: Path) -> bool:
    """Whether every file is there as it was written. Reads all of it."""
    try:
        expected: dict[str, str] = json.loads((directory / CHECKSUMS).read_text())
        return all(_checksum(directory / name) == digest for name, digest in expected.items())
    except (OSError, ValueError):
        return False


def _name(bundle: Bundle, reader: ReaderKind) -> str:
    """The fingerprint, and what it does not cover: which reader, and what the rival is."""
    rival = bundle.config.rival_checksums if reader is ReaderKind.TEXT else {}
    rest = json.dumps([reader, str(bundle.base.dtype), rival], sort_keys=True)
    return f"{bundle.fingerprint}-{hashlib.sha256(rest.encode()).hexdigest()[:8]}"


def _export(bundle: Bundle, directory: Path) -> None:
    """Appears whole or not at all."""
    temporary = directory.with_name(f"{directory.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    bundle.read_lm.save_pretrained(temporary)
    bundle.base.tokenizer.save_pretrained(temporary)
    checksums = {file.name: _checksum(file) for file in sorted(temporary.iterdir())}
    (temporary / CHECKSUMS).write_text(json.dumps(checksums, indent=2))
    shutil.rmtree(directory, ignore_errors=True)
    temporary.rename(directory)


def _checksum(file: Path) -> str:
    digest = xxhash.xxh3_128()
    with file.open("rb") as handle:
        while block := handle.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
