"""The keeper replaces what died, slower and slower if that does not help."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

import pytest

from server.engine import keeper as keeper_module
from server.engine.generator import EngineNotReadyError, GenerationChunk, GenerationRequest
from server.engine.keeper import Keeper

PAUSE_S = 0.02


class FakeCore:
    dtype, device, context_tokens = "float32", "cpu", 512

    def __init__(self) -> None:
        self.alive = True
        self.lost = False
        self.stops = 0

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk]:
        yield GenerationChunk("")

    def load(self) -> tuple[int, int]:
        return 1, 2

    async def stop(self) -> None:
        self.alive = False
        self.stops += 1


class Maker:
    """``outcomes``: an exception to raise, or None for a core; the last one goes on for ever."""

    def __init__(self, *outcomes: Exception | None) -> None:
        self.outcomes = list(outcomes) or [None]
        self.cores: list[FakeCore] = []
        self.gate = threading.Event()
        self.gate.set()
        self.calls = 0

    def __call__(self) -> FakeCore:
        self.calls += 1
        self.gate.wait(10)
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if outcome is not None:
            raise outcome
        self.cores.append(FakeCore())
        return self.cores[-1]


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper_module, "POLL_S", 0.002)
    monkeypatch.setattr(keeper_module, "FIRST_PAUSE_S", PAUSE_S)


def run(maker: Maker, body: Callable[[Keeper], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        keeper = Keeper(maker)
        await keeper.start()
        try:
            await body(keeper)
        finally:
            maker.gate.set()
            await keeper.stop()

    asyncio.run(asyncio.wait_for(main(), 20))


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def test_a_dead_core_is_refused_at_once_and_replaced() -> None:
    maker = Maker()

    async def body(keeper: Keeper) -> None:
        first = maker.cores[0]
        assert keeper.core is first
        first.alive = False
        assert not keeper.ready
        with pytest.raises(EngineNotReadyError, match="started again"):
            _ = keeper.core
        await until(lambda: keeper.ready)
        assert keeper.core is maker.cores[1]
        assert first.stops == 1

    run(maker, body)
    assert maker.cores[1].stops == 1


def test_a_restart_that_fails_is_tried_again_after_longer_and_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    maker = Maker(None, *[RuntimeError("no memory")] * 3, None)

    async def body(keeper: Keeper) -> None:
        maker.cores[0].alive = False
        began = asyncio.get_running_loop().time()
        await until(lambda: keeper.ready)
        assert asyncio.get_running_loop().time() - began >= (1 + 2 + 4) * PAUSE_S
        assert maker.calls == 5

    run(maker, body)


def test_a_core_that_dies_young_is_not_replaced_in_a_rush() -> None:
    maker = Maker()

    async def body(keeper: Keeper) -> None:
        for number in range(3):
            maker.cores[number].alive = False
            await until(lambda: keeper.ready)
        began = asyncio.get_running_loop().time()
        maker.cores[3].alive = False
        await asyncio.sleep(0)
        with pytest.raises(EngineNotReadyError) as refusal:
            _ = keeper.core
        assert refusal.value.retry_after_s >= 1
        await until(lambda: keeper.ready)
        assert asyncio.get_running_loop().time() - began >= 4 * PAUSE_S

    run(maker, body)


def test_a_core_that_lived_long_is_replaced_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper_module, "FIRST_PAUSE_S", 60.0)
    monkeypatch.setattr(keeper_module, "STEADY_S", 0.01)
    maker = Maker()

    async def body(keeper: Keeper) -> None:
        for number in range(3):
            await asyncio.sleep(0.02)
            maker.cores[number].alive = False
            await until(lambda: keeper.ready)

    run(maker, body)


def test_the_first_start_is_not_retried() -> None:
    async def main() -> None:
        keeper = Keeper(Maker(RuntimeError("no such model")))
        with pytest.raises(RuntimeError, match="no such model"):
            await keeper.start()
        assert not keeper.ready
        assert keeper.load() == (0, 0)
        await keeper.stop()

    asyncio.run(main())


def test_stopping_while_a_core_is_being_started_stops_that_one_too() -> None:
    maker = Maker()

    async def body(keeper: Keeper) -> None:
        maker.gate.clear()
        maker.cores[0].alive = False
        await until(lambda: maker.calls == 2)
        stopping = asyncio.create_task(keeper.stop())
        await asyncio.sleep(0.01)
        assert not stopping.done()
        maker.gate.set()
        await stopping
        assert not keeper.ready

    run(maker, body)
    assert maker.cores[1].stops >= 1
    assert maker.calls == 2


def test_a_start_that_was_cancelled_is_stopped_when_it_is_done() -> None:
    maker = Maker()
    maker.gate.clear()

    async def main() -> None:
        keeper = Keeper(maker)
        starting = asyncio.create_task(keeper.start())
        await until(lambda: maker.calls)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        maker.gate.set()
        await keeper.stop()

    asyncio.run(asyncio.wait_for(main(), 20))
    assert maker.cores[0].stops == 1


@pytest.mark.parametrize("alive", [True, False])
def test_a_core_whose_device_is_lost_is_not_replaced(alive: bool) -> None:
    maker = Maker()

    async def body(keeper: Keeper) -> None:
        maker.cores[0].lost = True
        maker.cores[0].alive = alive
        await until(lambda: keeper.lost)
        assert not keeper.ready
        with pytest.raises(EngineNotReadyError, match="accelerator has failed"):
            _ = keeper.core
        await asyncio.sleep(3 * PAUSE_S)
        assert maker.calls == 1

    run(maker, body)


def test_the_thread_that_starts_a_core_ends_with_it() -> None:
    """What it computed with would wait beside the engine's own for as long as it lives."""
    maker = Maker()
    starters: list[threading.Thread] = []

    def make() -> FakeCore:
        starters.append(threading.current_thread())
        return maker()

    async def main() -> None:
        keeper = Keeper(make)
        await keeper.start()
        await until(lambda: not starters[0].is_alive())
        await keeper.stop()

    asyncio.run(asyncio.wait_for(main(), 20))
