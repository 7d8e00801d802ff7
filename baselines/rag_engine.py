"""The rival's engine: a sentence encoder selects, the same LLM reads the passages as text.

Everything behind it (queue, store, index, HTTP) is the house's own: a chunk is a memory without
slots, whose key is the encoder's vector. So what differs between the two endpoints is the method.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from baselines.encoder import SentenceEncoder, load_encoder
from memory_store.records import CodeFormat, FloatArray, HalfArray, MemorySpec
from memory_store.slot_quantiser import SlotQuantiser
from paramem.settings import Settings
from server.engine.cores import helper_thread
from server.engine.dynamic_batcher import DynamicBatcher, try_to_record
from server.engine.generator import (
    EngineInfo,
    EngineNotReadyError,
    GenerationChunk,
    GenerationRequest,
    Generator,
    QueryReading,
    SelectionUnavailableError,
)

SELECTION = "router"
"""What the engine's own way to select is called in a query."""


def chunk_spec(encoder: SentenceEncoder) -> MemorySpec:
    """Of collections of chunks: a key each, no slots."""
    return MemorySpec(encoder.fingerprint, slots=0, z_dim=encoder.dim, code_format=CodeFormat.BF16)


class RagEngine:
    """Implements ``Generator`` around the one that generates."""

    def __init__(self, settings: Settings, llm: Generator) -> None:
        self._settings = settings
        self._llm = llm
        self._encoder: SentenceEncoder | None = None
        self._thread = helper_thread(settings, "encoder")
        self._embedder: DynamicBatcher[str, FloatArray] = DynamicBatcher(self._thread, self._embed)

    async def start(self) -> None:
        await self._llm.start()
        self._encoder = await asyncio.get_running_loop().run_in_executor(self._thread, self._load)

    async def stop(self) -> None:
        await self._llm.stop()
        self._thread.shutdown(wait=False, cancel_futures=True)

    @property
    def info(self) -> EngineInfo:
        spec = chunk_spec(self._loaded())
        return replace(
            self._llm.info, spec=spec, selections=(SELECTION,), score_margin=None, coarse_slots=None
        )

    @property
    def quantiser(self) -> SlotQuantiser | None:
        return None

    @property
    def ready(self) -> bool:
        return self._encoder is not None and self._llm.ready

    @property
    def lost(self) -> bool:
        return self._llm.lost

    async def embed_query(self, query: str, selection: str) -> FloatArray:
        self._loaded()
        if selection != SELECTION:
            raise SelectionUnavailableError(
                f"the RAG endpoint selects by its encoder only: leave selection out, or send "
                f"{SELECTION!r}"
            )
        return await self._embedder(query)

    async def read_query(self, query: str) -> QueryReading:
        raise SelectionUnavailableError("chunks have no slots to re-rank by")

    async def slot_vectors(self, codes: Sequence[FloatArray]) -> list[HalfArray]:
        raise SelectionUnavailableError("chunks have no slots to re-rank by")

    def generate(self, request: GenerationRequest) -> AsyncIterator[GenerationChunk]:
        return self._llm.generate(request)

    def load(self) -> tuple[int, int]:
        return self._llm.load()

    def _load(self) -> SentenceEncoder:
        encoder = load_encoder(self._settings)
        if encoder.device.type == "cuda":
            try_to_record(encoder.record_queries)
        return encoder

    def _embed(self, queries: Sequence[str]) -> FloatArray:
        """(B, d)"""
        return self._loaded().queries(queries)

    def _loaded(self) -> SentenceEncoder:
        if self._encoder is None:
            raise EngineNotReadyError("the encoder is still loading; try again shortly")
        return self._encoder
