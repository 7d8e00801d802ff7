"""The embedded engine: transformers on CPU or GPU, with continuous batching.

transformers' own continuous batching takes token ids only; memories enter as ``inputs_embeds``,
hence the batch and the scheduler beside this file.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import torch

from memory_store.records import CodeFormat, FloatArray, MemorySpec
from memory_store.slot_quantiser import SlotQuantiser
from paramem.settings import Settings
from server.engine.batch import Batch
from server.engine.generator import (
    ATTENTION,
    EngineInfo,
    EngineNotReadyError,
    GenerationChunk,
    GenerationRequest,
    SelectionUnavailableError,
)
from server.engine.scheduler import Scheduler

if TYPE_CHECKING:
    from memory_model.runtime import ReadingModel


def load_reading_model(settings: Settings) -> ReadingModel:
    """Load what ``settings`` name; takes seconds to minutes."""
    # these imports take seconds too: not in the event loop
    from memory_model.runtime import ReadingModel, open_bundle

    return ReadingModel(open_bundle(settings))


class TransformersEngine:
    """Implements ``Generator``."""

    def __init__(
        self,
        settings: Settings,
        *,
        load_model: Callable[[Settings], ReadingModel] = load_reading_model,
    ) -> None:
        self._settings = settings
        self._load_model = load_model
        self._model: ReadingModel | None = None
        self._scheduler: Scheduler | None = None
        # One thread: more of them computing beside the engine thread only fight over the cores.
        self._helper = ThreadPoolExecutor(1, thread_name_prefix="engine-helper")

    async def start(self) -> None:
        """Load the model and run it once. Raises: whatever loading raises."""
        model = await asyncio.get_running_loop().run_in_executor(self._helper, self._load)
        self._scheduler = Scheduler(model, max_batch_size=self._settings.max_batch_size)
        self._model = model

    async def stop(self) -> None:
        scheduler, self._model = self._scheduler, None
        if scheduler is not None:
            await asyncio.to_thread(scheduler.stop)
        self._scheduler = None
        self._helper.shutdown(wait=False, cancel_futures=True)

    @property
    def ready(self) -> bool:
        return self._model is not None and self._scheduler is not None and self._scheduler.alive

    @property
    def info(self) -> EngineInfo:
        model, _ = self._serving()
        return EngineInfo(
            model=model.name,
            spec=MemorySpec(
                fingerprint=model.fingerprint,
                slots=model.slots,
                z_dim=model.z_dim,
                code_format=CodeFormat(self._settings.code_format),
            ),
            dtype=str(model.dtype).removeprefix("torch."),
            device=str(model.device),
            context_tokens=model.context_tokens,
            selections=model.selections,
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

    def _selecting(self, selection: str) -> ReadingModel:
        model, _ = self._serving()
        if selection not in model.selections:
            raise SelectionUnavailableError(
                f"this bundle cannot select by {selection!r}; it can by: "
                f"{', '.join(model.selections)}"
            )
        return model

    async def generate(self, request: GenerationRequest) -> AsyncIterator[GenerationChunk]:
        _, scheduler = self._serving()
        answer = scheduler.submit(request, asyncio.get_running_loop())
        try:
            while True:
                item = await answer.chunks.get()
                if isinstance(item, Exception):
                    raise item
                yield item
                if item.finish_reason is not None:
                    return
        finally:
            scheduler.cancel(answer)

    def load(self) -> tuple[int, int]:
        return (0, 0) if self._scheduler is None else self._scheduler.load()

    def _serving(self) -> tuple[ReadingModel, Scheduler]:
        model, scheduler = self._model, self._scheduler
        if model is None or scheduler is None or not scheduler.alive:
            raise EngineNotReadyError("the engine is loading, draining or dead: try again")
        return model, scheduler

    def _load(self) -> ReadingModel:
        model = self._load_model(self._settings)
        with torch.inference_mode():
            # Ragged rows and one step: whatever this model cannot do shows now, not at a request.
            token = model.embed_tokens(torch.zeros(1, dtype=torch.long, device=model.device))
            batch = Batch(model.lm)
            batch.join([token, token.expand(2, -1)])
            batch.step([0, 0])
        return model
