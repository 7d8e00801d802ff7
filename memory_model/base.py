"""The base LLM: loading, placing and identifying a causal language model.

Symbols: h = hidden size of the LLM.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xxhash
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from transformers.utils import logging as transformers_logging

from memory_model import library
from memory_model.errors import ModelError
from memory_model.library import ModelEntry

NF4_MIN_PARAMETERS = 1_000_000_000
"""With ``quantization="auto"``, CUDA models above this size are loaded in NF4."""


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A loaded base LLM. ``weights_hash`` covers its weight files, tokenizer and quantisation."""

    name: str
    path: Path
    lm: Any  # transformers.PreTrainedModel, eval mode, no gradients
    tokenizer: Any  # transformers.PreTrainedTokenizerBase
    quantization: str  # none | nf4
    weights_hash: str

    @property
    def device(self) -> torch.device:
        return self.embedding_table.device

    @property
    def dtype(self) -> torch.dtype:
        return self.embedding_table.dtype

    @property
    def hidden_size(self) -> int:
        return int(self.lm.config.hidden_size)

    @property
    def context_tokens(self) -> int:
        return int(self.lm.config.max_position_embeddings)

    @property
    def embedding_table(self) -> torch.Tensor:
        """Token embeddings. Shape (vocabulary, h)."""
        table: torch.Tensor = self.lm.get_input_embeddings().weight
        return table

    def embed_tokens(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Embeddings of ``token_ids`` (any shape), as the LLM itself looks them up.

        Returns: (*token_ids.shape, h)
        """
        embedded: torch.Tensor = self.lm.get_input_embeddings()(token_ids)
        return embedded

    def tokenize(self, text: str) -> list[int]:
        """Token ids of ``text``; no special tokens are added."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def load_base(
    name: str,
    *,
    cache: Path,
    device: str = "auto",
    quantization: str = "auto",
    dtype: str = "auto",
) -> BaseModel:
    """Load a causal LM for inference, fetching or converting it first if need be.

    Args:
        name: the default model, a hub id, or a local directory.
        device: ``auto`` (CUDA if there is one), ``cpu``, ``cuda`` …
        quantization: ``none``; ``nf4`` (QLoRA's 4-bit type, Dettmers et al. 2023; needs CUDA);
            ``auto`` = NF4 on CUDA above 1 B parameters, else none.
        dtype: ``bfloat16``, ``float32``; ``auto`` = bfloat16 wherever the device multiplies it
            (a CPU that does not falls back to scalar code: prefill 3.5 times slower than float32,
            training 27 times). Memories are readable whichever it was.

    Raises:
        ModelNotFoundError: no such model.
        ModelError: NF4 was asked for without CUDA.
    """
    path = library.pull(name, cache)
    entry = library.show(str(path), cache)
    place = torch.device(chosen_device(device))
    chosen = _quantization(quantization, place, entry)
    options: dict[str, Any] = {"dtype": chosen_dtype(dtype, place, entry)}
    if chosen == "nf4":
        options["device_map"] = {"": place}
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    transformers_logging.disable_progress_bar()  # a daemon has no terminal
    lm = AutoModelForCausalLM.from_pretrained(path, **options)
    if chosen == "none":
        lm.to(place)
    lm.eval().requires_grad_(False)
    tokenizer = AutoTokenizer.from_pretrained(path)
    return BaseModel(
        name=name,
        path=path,
        lm=lm,
        tokenizer=tokenizer,
        quantization=chosen,
        weights_hash=_identity(path, tokenizer, chosen),
    )


def chosen_device(device: str) -> str:
    """What ``auto`` is on this machine; anything else as given."""
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def chosen_dtype(dtype: str, device: torch.device, entry: ModelEntry) -> torch.dtype:
    """What ``dtype`` means there.

    ``auto``: bf16, but fp32 where the weights are (tiny test models) or bf16 is not native.
    """
    if dtype != "auto":
        chosen: torch.dtype = getattr(torch, dtype)
        return chosen
    native = device.type != "cpu" or multiplies_bfloat16()
    return torch.bfloat16 if native and entry.dtype != "float32" else torch.float32


def multiplies_bfloat16() -> bool:
    """Whether this CPU has matrix products of bf16 that are worth using."""
    supported: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported()  # what torch itself asks
    return supported


def _quantization(quantization: str, device: torch.device, entry: ModelEntry) -> str:
    if quantization == "nf4" and device.type != "cuda":
        raise ModelError(
            "PARAMEM_QUANTIZATION=nf4 needs a CUDA device, and there is none; use auto or none"
        )
    if quantization != "auto":
        return quantization
    large = entry.num_parameters > NF4_MIN_PARAMETERS
    return "nf4" if large and device.type == "cuda" else "none"


def _identity(path: Path, tokenizer: Any, quantization: str) -> str:
    """Hash of the weights, the tokenizer and its template. Streams at disk speed.

    Not of ``tokenizer_config.json``: transformers writes there, among other things, whether the
    hub was reachable when it was saved.
    """
    digest = xxhash.xxh3_128(quantization.encode())
    digest.update(f"{tokenizer.eos_token}\n{tokenizer.chat_template}".encode())
    files = [*path.glob("*.safetensors"), *path.glob("tokenizer.json")]
    for file in sorted(files, key=lambda item: item.name):
        digest.update(file.name.encode())
        with file.open("rb") as handle:
            while block := handle.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()
