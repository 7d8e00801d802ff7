"""What engines with a reading model share: selection, and a core that is kept alive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING

from memory_store.records import CodeFormat, FloatArray, HalfArray, MemorySpec
from memory_store.slot_quantiser import SlotQuantiser
from paramem.settings import Settings
from server.engine.core import Core
from server.engine.cores import helper_thread
from server.engine.dynamic_batcher import DynamicBatcher, try_to_record
from server.engine.generator import (
    ATTENTION,
    EngineInfo,
    GenerationChunk,
    GenerationRequest,
    QueryReading,
    SelectionUnavailableError,
)
from server.engine.keeper import Keeper

if TYPE_CHECKING:
    from memory_model.runtime import ReadingModel


class ModelEngine:
    """Implements ``Generator``. The model is loaded once and outlives the cores."""

    def __init__(
        self,
        settings: Settings,
        load_model: Callable[[Settings], ReadingModel],
        start_core: Callable[[ReadingModel], Core],
    ) -> None:
        """Both callables run in a thread and may take minutes."""
        self._settings = settings
        self._load_model = load_model
        self._start_core = start_core
        self._model: ReadingModel | None = None
        self._keeper = Keeper(self._make_core)
        self._helper = helper_thread(settings, "engine-helper")
        self._embedders: dict[str, DynamicBatcher[str, FloatArray]] = {}  # by selection
        self._query_reader = DynamicBatcher(self._helper, self._read_queries)

    def _make_core(self) -> Core:
        if self._model is None:
            self._model = self._load_model(self._settings)
            if self._model.device.type == "cuda":
                try_to_record(self._model.record_queries)
        return self._start_core(self._model)

    async def start(self) -> None:
        """Load the model and run it once. Raises: whatever loading raises."""
        await self._keeper.start()

    async def stop(self) -> None:
        await self._keeper.stop()
        self._helper.shutdown(wait=False, cancel_futures=True)

    @property
    def ready(self) -> bool:
        return self._keeper.ready

    @property
    def lost(self) -> bool:
        return self._keeper.lost

    @property
    def info(self) -> EngineInfo:
        model, core = self._serving()
        return EngineInfo(
            model=model.name,
            spec=MemorySpec(
                fingerprint=model.fingerprint,
                slots=self._settings.slots or model.slots,
                z_dim=model.z_dim,
                code_format=CodeFormat(self._settings.code_format),
            ),
            dtype=core.dtype,
            device=core.device,
            context_tokens=core.context_tokens,
            selections=model.selections,
            score_margin=model.score_margin,
            coarse_slots=model.coarse_slots,
            router_weight=model.router_weight,
        )

    @property
    def quantiser(self) -> SlotQuantiser | None:
        model, _ = self._serving()
        return model.bundle.slot_quantiser

    async def embed_query(self, query: str, selection: str) -> FloatArray:
        self._selecting(selection)
        if selection not in self._embedders:
            embed = partial(self._embed, selection)
            self._embedders[selection] = DynamicBatcher(self._helper, embed)
        return await self._embedders[selection](query)

    async def read_query(self, query: str) -> QueryReading:
        self._selecting(ATTENTION)
        return await self._query_reader(query)

    async def slot_vectors(self, codes: Sequence[FloatArray]) -> list[HalfArray]:
        model = self._selecting(ATTENTION)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._helper, model.slot_vectors, codes)

    async def generate(self, request: GenerationRequest) -> AsyncIterator[GenerationChunk]:
        _, core = self._serving()
        async with aclosing(core.generate(request)) as chunks:
            async for chunk in chunks:
                yield chunk

    def load(self) -> tuple[int, int]:
        return self._keeper.load()

    def _embed(self, selection: str, queries: Sequence[str]) -> FloatArray:
        """(B, d)"""
        return self._selecting(selection).embed_queries(queries, selection)

    def _read_queries(self, queries: Sequence[str]) -> list[QueryReading]:
        model = self._selecting(ATTENTION)
        vectors = model.query_vectors(queries)
        words = map(model.query_words, queries)
        return [QueryReading(*each) for each in zip(vectors, words, strict=True)]

    def _selecting(self, selection: str) -> ReadingModel:
        model, _ = self._serving()
        if selection not in model.selections:
            raise SelectionUnavailableError(
                f"this bundle cannot select by {selection!r}; it can by: "
                f"{', '.join(model.selections)}"
            )
        return model

    def _serving(self) -> tuple[ReadingModel, Core]:
        """Raises: EngineNotReadyError."""
        core = self._keeper.core
        assert self._model is not None
        return self._model, core
