"""Everything loaded and bound together, ready to read (server) or to write (worker)."""

from __future__ import annotations

import fcntl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from memory_model.base import BaseModel, load_base
from memory_model.bundle import (
    READ_ADAPTER,
    TEXT_ADAPTER,
    Bundle,
    load_bundle,
    read_config,
)
from memory_model.calibration import create_untrained_bundle
from memory_model.errors import BundleError
from memory_model.packed_linear import PackedLinear, pack_linears
from memory_model.packed_llama import PackedLlama, pack_model
from memory_model.reader import Reader
from memory_model.shared_words import weigh_words
from paramem.settings import (
    DEFAULT_MODEL,
    UNTRAINED,
    UNTRAINED_SLOTS,
    EngineKind,
    ReaderKind,
    Settings,
)

SHIPPED = Path(__file__).parent / "bundles"
READERS = {ReaderKind.MEMORY: READ_ADAPTER, ReaderKind.TEXT: TEXT_ADAPTER}

FloatArray = npt.NDArray[np.float32]
HalfArray = npt.NDArray[np.float16]


def open_bundle(settings: Settings) -> Bundle:
    """Load the base LLM and its bundle.

    That is ``settings.bundle``; else, for the default model, the one in ``memory_model/bundles/``;
    else heads in closed form, for the slots and ``z_dim`` of the settings. Those are made once and
    kept under the home, because memories are readable only with them.

    Raises:
        ModelError: the model or the bundle cannot be used; the message says what to do.
    """
    if settings.num_threads:
        torch.set_num_threads(settings.num_threads)
    directory = _trained_bundle(settings)
    base = open_base(settings, settings.model)
    if directory is not None:
        return load_bundle(directory, base, reader=READERS[settings.reader])
    bundles = settings.home / "bundles"
    bundles.mkdir(parents=True, exist_ok=True)
    slots = settings.slots or UNTRAINED_SLOTS
    name = f"untrained-{base.weights_hash[:16]}-m{slots}-d{settings.z_dim}"
    with (bundles / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)  # server and worker may start together
        if not (bundles / name).is_dir():
            create_untrained_bundle(bundles / name, base, slots=slots, z_dim=settings.z_dim)
    return load_bundle(bundles / name, base)


def open_base(settings: Settings, model: str) -> BaseModel:
    """Load a base LLM where and how the settings say.

    Raises:
        ModelError: it cannot be had, or not like that.
    """
    quantization = settings.quantization
    if settings.engine is EngineKind.VLLM and quantization == "auto":
        quantization = "none"  # it loads exported weights; the worker must decide alike
    return load_base(
        model,
        cache=settings.cache,
        device=settings.device,
        quantization=quantization,
        dtype=settings.dtype,
    )


def has_trained_bundle(settings: Settings) -> bool:
    """Whether these settings get a bundle with two trained readers."""
    return _bundle_directory(settings) is not None


def _bundle_directory(settings: Settings) -> Path | None:
    directory = settings.bundle
    if directory is None and settings.model == DEFAULT_MODEL:
        directory = SHIPPED / DEFAULT_MODEL
    return None if directory == Path(UNTRAINED) else directory


def _trained_bundle(settings: Settings) -> Path | None:
    """Where the trained bundle of these settings is; None if they get an untrained one.

    Raises:
        BundleError: codes are asked for of a dimension that the trained bundle does not have, or
            a reader that an untrained one does not have.
    """
    directory = _bundle_directory(settings)
    if directory is None:
        if settings.reader is ReaderKind.TEXT:
            raise BundleError("PARAMEM_READER=text needs a trained bundle; set PARAMEM_BUNDLE")
        return None
    trained = read_config(directory).z_dim
    if "z_dim" in settings.model_fields_set and settings.z_dim != trained:
        raise BundleError(
            f"PARAMEM_Z_DIM={settings.z_dim}, but the bundle {directory} was trained for "
            f"{trained}; leave PARAMEM_Z_DIM out, or set PARAMEM_BUNDLE={UNTRAINED}"
        )
    return directory


class ReadingModel:
    """The LLM side of the read path: query vectors and prompts as ``inputs_embeds``.

    Thread-safe: holds no state that a call changes, unless queries are recorded.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self._base = bundle.base
        self._reader = Reader(bundle.base, bundle.expander, bundle.config.template)
        self.lm: Any = bundle.read_lm
        self.name = bundle.base.name
        self.fingerprint = bundle.fingerprint
        self.slots = bundle.config.slots
        self.z_dim = bundle.config.z_dim
        self.context_tokens = bundle.base.context_tokens
        self.device = bundle.base.device
        self.dtype = bundle.base.dtype
        self.stop_token_ids = _stop_token_ids(bundle.base.lm, bundle.base.tokenizer)
        self.selections = bundle.selections
        self.score_margin = bundle.config.score_margin
        self.coarse_slots = bundle.config.coarse_slots
        self._information = bundle.compressor.token_information.cpu().numpy()
        self.router_weight = float(bundle.selector.reranker.router_weight)

    @torch.inference_mode()
    def embed_queries(self, queries: Sequence[str], selection: str) -> FloatArray:
        """The vectors the index is searched with. Returns: (B, d) float32, unit norm.

        Raises:
            KeyError: unknown selection.
        """
        if selection not in self.selections:
            raise KeyError(selection)
        selector = self.bundle.selector
        # cosine is the plain baseline: the query as if it were a passage, no query head;
        # attention starts from the router's candidates
        embed = selector.keys if selection == "cosine" else selector.queries
        vectors: FloatArray = embed(queries).cpu().numpy()
        return vectors

    @torch.inference_mode()
    def query_vectors(self, queries: Sequence[str]) -> list[FloatArray]:
        """What the re-ranker compares slots with. Returns: of each query (T, r) float32."""
        token_ids = [self._base.tokenize(query) for query in queries]
        codes = self.bundle.compressor.compress_tokens(token_ids)  # (B, T, d)
        vectors = [
            self.bundle.selector.reranker.query_vectors(row[: len(ids)])
            for row, ids in zip(codes, token_ids, strict=True)
        ]
        return [each.cpu().numpy() for each in vectors]

    def query_words(self, query: str) -> dict[int, float]:
        """What it counts for the re-ranker that a passage has the query's words: see
        :mod:`memory_model.shared_words`."""
        return weigh_words(query, self._base.tokenize, self._information)

    @torch.inference_mode()
    def slot_vectors(self, codes: Sequence[FloatArray]) -> list[HalfArray]:
        """What the re-ranker compares queries with.

        Args:
            codes: C of (m, d), at least one, all of one m.

        Returns: C of (m, r) float16, each in memory of its own.
        """
        slots = torch.from_numpy(np.stack(codes)).to(self.device)  # (C, m, d)
        vectors = self.bundle.selector.reranker.slot_vectors(slots)  # (C, m, r)
        return [each.numpy().copy() for each in vectors.to("cpu", torch.float16)]

    @torch.inference_mode()
    def prompt_embeds(
        self, query: str | None, codes: Sequence[FloatArray], texts: Sequence[str]
    ) -> torch.Tensor:
        """The prompt of one request.

        Args:
            query: None decodes the memories back into text.
            codes: K of (m_i, d); texts: K passages as text instead; neither: closed book.

        Returns: (T, h) in the LLM's dtype, on its device.
        """
        if codes:
            memories = [torch.from_numpy(code).to(self.device) for code in codes]
            return self._reader.memory_prompt(query, memories)
        return self._reader.text_prompt(query or "", texts)

    def prefix_embeds(self) -> torch.Tensor:
        """What every prompt begins with that is given something to read. (P, h)"""
        return self._reader.embed(self._reader.prefix_tokens)

    def pack(self, *, may_round: bool) -> None:
        """Keep weights for fast forwards: the LLM's, and those that select. They cannot be saved
        afterwards.

        ``may_round``: float32 to float16.
        """
        pack_model(self.lm, may_round=may_round)
        self.pack_selection(may_round=may_round)
        if any(isinstance(part, PackedLinear | PackedLlama) for part in self.lm.modules()):
            for left in self.lm.parameters():
                # a part of the checkpoint's file: one keeps all that was read of it in memory
                left.data = left.data.clone()

    def pack_selection(self, *, may_round: bool) -> None:
        """The same, of what selects alone."""
        for encoder in self.bundle.encoders:
            encoder.pack(may_round=may_round)
        for heads in (self.bundle.compressor, self.bundle.selector):
            pack_linears(heads, may_round=may_round)

    def record_queries(self, most: int) -> None:
        """Replay, from here on, what selecting by up to ``most`` short queries takes of the LLM.
        One thread selects then.

        Raises: RuntimeError if that cannot be recorded.
        """
        for encoder in self.bundle.encoders:
            encoder.record(most)

    def forget_layers(self) -> None:
        """Free what only generating needs: the LLM's layers and output head. What selection and
        prompts need stays: the token embeddings, and the first layers that heads read with."""
        self.lm.base_model.layers = torch.nn.ModuleList()
        self.lm.set_output_embeddings(torch.nn.Identity())

    def embed_tokens(self, token_ids: torch.Tensor) -> torch.Tensor:
        """(B,) -> (B, h)"""
        return self._base.embed_tokens(token_ids)

    def decode(self, token_ids: list[int]) -> str:
        text: str = self._base.tokenizer.decode(token_ids, skip_special_tokens=True)
        return text


def _stop_token_ids(lm: Any, tokenizer: Any) -> frozenset[int]:
    eos = lm.generation_config.eos_token_id
    configured = eos if isinstance(eos, list) else [eos]
    return frozenset(i for i in (*configured, tokenizer.eos_token_id) if i is not None)
