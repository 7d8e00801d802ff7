"""What engines with a reading model share: selection, and a core that is kept alive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

import numpy as np

from memory_store.records import CodeFormat, FloatArray, MemorySpec
from memory_store.slot_quantiser import SlotQuantiser
from paramem.settings import Settings
from server.engine.core import Core
from server.engine.cores import helper_thread
from server.engine.generator import (
    ATTENTION,
    EngineInfo,
    GenerationChunk,
    GenerationRequest,
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

    def _make_core(self) -> Core:
        if self._model is None:
            self._model = self._load_model(self._settings)
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
                slots=model.slots,
                z_dim=model.z_dim,
                code_format=CodeFormat(self._settings.code_format),
            ),
            dtype=core.dtype,
            device=core.device,
            context_tokens=core.context_tokens,
            selections=model.selections,
            score_margin=model.score_margin,
            coarse_slots=model.coarse_slots,
        )

    @property
    def quantiser(self) -> SlotQuantiser | None:
        model, _ = self._serving()
        return model.bundle.slot_quantiser

    async def embed_query(self, query: str, selection: str) -> FloatArray:
        model = self._selecting(selection)

        def embed() -> FloatArray:
            return np.asarray(model.embed_query(query, selection), dtype=np.float32)

        return await asyncio.get_running_loop().run_in_executor(self._helper, embed)

    async def rerank(
        self, query: str, codes: Sequence[FloatArray], scores: Sequence[float]
    ) -> list[float]:
        model = self._selecting(ATTENTION)
        return await asyncio.get_running_loop().run_in_executor(
            self._helper, model.rerank, query, codes, scores
        )

    async def generate(self, request: GenerationRequest) -> AsyncIterator[GenerationChunk]:
        _, core = self._serving()
        async with aclosing(core.generate(request)) as chunks:
            async for chunk in chunks:
                yield chunk

    def load(self) -> tuple[int, int]:
        return self._keeper.load()

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
