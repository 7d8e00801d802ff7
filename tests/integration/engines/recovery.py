"""What every engine with a core must do when it dies; derived like the conformance suite."""

from __future__ import annotations

import asyncio
import time

import pytest

from server.engine.generator import EngineError, EngineNotReadyError, GenerationRequest
from server.engine.model_engine import ModelEngine
from tests.integration.engines.conformance import chunks_of, collect, text_of, until_idle

REQUEST = GenerationRequest("two words", 8)
LONG = GenerationRequest("two words", 300)


class RecoveryConformance:
    patience_s = 30.0

    def make_engine(self) -> ModelEngine:
        raise NotImplementedError

    def kill(self, engine: ModelEngine) -> None:
        """Kill what generates; the engine is told by nobody."""
        raise NotImplementedError

    async def until_ready(self, engine: ModelEngine) -> None:
        deadline = time.monotonic() + self.patience_s
        while not engine.ready:
            assert time.monotonic() < deadline, "the engine did not come back"
            await asyncio.sleep(0.01)

    def test_a_dead_engine_says_so_and_comes_back(self) -> None:
        async def scenario() -> None:
            engine = self.make_engine()
            await engine.start()
            try:
                before = text_of(await collect(engine, REQUEST))
                fingerprint = engine.info.spec.fingerprint
                running = chunks_of(engine, LONG)
                await anext(running)
                self.kill(engine)
                with pytest.raises(EngineError):
                    async for _ in running:
                        pass
                assert not engine.ready
                with pytest.raises(EngineNotReadyError) as refusal:
                    await collect(engine, REQUEST)
                assert refusal.value.retry_after_s >= 1
                with pytest.raises(EngineNotReadyError):
                    _ = engine.info
                with pytest.raises(EngineNotReadyError):
                    await engine.embed_query("two words", "router")
                await self.until_ready(engine)
                assert text_of(await collect(engine, REQUEST)) == before
                assert engine.info.spec.fingerprint == fingerprint
                await until_idle(engine)
            finally:
                await engine.stop()

        asyncio.run(asyncio.wait_for(scenario(), 4 * self.patience_s))

    def test_a_dead_engine_can_be_stopped(self) -> None:
        async def scenario() -> None:
            engine = self.make_engine()
            await engine.start()
            self.kill(engine)
            await engine.stop()
            assert not engine.ready
            await asyncio.sleep(0.3)
            assert not engine.ready

        asyncio.run(asyncio.wait_for(scenario(), 4 * self.patience_s))
