"""A started engine, the transformers engine on the tiny reading model, and requests for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import numpy as np

from paramem.settings import Settings
from server.engine.generator import GenerationRequest, Generator
from server.engine.transformers_engine import TransformersEngine
from tests.integration.engines.tiny_reading import SLOTS, Z_DIM, TinyReadingModel

Engine = TypeVar("Engine", bound=Generator)
Body = Callable[[TransformersEngine], Coroutine[Any, Any, None]]


def with_engine(model: TinyReadingModel, body: Body, **settings: Any) -> None:
    run_started(TransformersEngine(Settings(**settings), load_model=lambda _settings: model), body)


def run_started(engine: Engine, body: Callable[[Engine], Coroutine[Any, Any, None]]) -> None:
    """Run ``body`` against the engine, started; stop it, and check that nothing is left in it."""

    async def main() -> None:
        await engine.start()
        try:
            await body(engine)
        finally:
            await engine.stop()
        assert engine.load() == (0, 0)

    asyncio.run(asyncio.wait_for(main(), 60))


def request(number: int, *, max_new_tokens: int = 24, **fields: Any) -> GenerationRequest:
    """Prompts of different lengths: some with memories, some with text, some with neither."""
    random = np.random.default_rng(number)
    codes = [random.normal(size=(SLOTS, Z_DIM)).astype(np.float32) for _ in range(number % 3)]
    return GenerationRequest(
        query="the cat sat on the log " * (number % 4) + f"dog {number}",
        max_new_tokens=max_new_tokens,
        codes=codes,
        texts=["the mat " * number] if number % 3 == 0 else [],
        **fields,
    )
