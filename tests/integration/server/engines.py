"""Dummy engines that misbehave in one way each."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import replace

from memory_model.shared_words import words_of
from paramem.settings import Settings
from server.engine.dummy import DummyEngine
from server.engine.generator import EngineInfo, GenerationChunk, GenerationRequest, QueryReading


class GatedEngine(DummyEngine):
    """Loads when ``gate`` is set; before, it is a server that is still starting."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.gate = threading.Event()

    async def start(self) -> None:
        while not self.gate.is_set():
            await asyncio.sleep(0.005)
        await super().start()


class UnloadableEngine(DummyEngine):
    async def start(self) -> None:
        raise FileNotFoundError("no such model: nowhere/model")


class UntrainedEngine(DummyEngine):
    """Has no re-ranker."""

    @property
    def info(self) -> EngineInfo:
        return replace(super().info, selections=("router", "cosine"))


class RerankingEngine(DummyEngine):
    """Re-ranks unless a query names something else."""

    @property
    def info(self) -> EngineInfo:
        return replace(super().info, selections=("attention", "router", "cosine"))


class WordEngine(DummyEngine):
    """Ranks by one word more than by anything else."""

    word = "skye"

    async def read_query(self, query: str) -> QueryReading:
        reading = await super().read_query(query)
        return replace(reading, words={int(words_of(self.word)[0]): 10.0})


class MarginEngine(DummyEngine):
    """Reads, after re-ranking, what scores as well as the best unless a query says otherwise."""

    @property
    def info(self) -> EngineInfo:
        return replace(super().info, selections=("attention", "router", "cosine"), score_margin=0.0)


class CoarseEngine(DummyEngine):
    """Reads memories after the best in fewer slots unless a query says otherwise."""

    coarse_slots = 1

    @property
    def info(self) -> EngineInfo:
        return replace(super().info, coarse_slots=self.coarse_slots)


class FailingEngine(DummyEngine):
    """Breaks after ``after`` chunks of every answer."""

    def __init__(self, settings: Settings, *, after: int) -> None:
        super().__init__(settings)
        self._after = after

    async def generate(self, request: GenerationRequest) -> AsyncIterator[GenerationChunk]:
        count = 0
        async for chunk in super().generate(request):
            if count == self._after:
                raise RuntimeError("secret detail of the engine")
            yield chunk
            count += 1


class HeldEngine(DummyEngine):
    """Stops before the last chunk of every answer until ``gate`` is set."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.gate = threading.Event()

    async def generate(self, request: GenerationRequest) -> AsyncIterator[GenerationChunk]:
        async for chunk in super().generate(request):
            while chunk.finish_reason is not None and not self.gate.is_set():
                await asyncio.sleep(0.05)
            yield chunk
