"""The vLLM engine over vLLM itself, where it is installed (CUDA, or its CPU build).

Half a minute a start: the suites share one engine process as far as they can.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psutil
import pytest
import torch

from memory_model.reader import Reader
from memory_model.runtime import open_bundle
from paramem.settings import Settings
from server.engine.generator import EngineNotReadyError, GenerationRequest, Generator
from server.engine.transformers_engine import TransformersEngine
from server.engine.vllm_core import Sampling, start_vllm
from server.engine.vllm_engine import VllmEngine
from tests.integration.engines.conformance import (
    GeneratorConformance,
    chunks_of,
    collect,
    text_of,
    until_idle,
)
from tests.integration.engines.tiny_reading import answer
from tests.integration.engines.trained import save_trained_bundle
from tests.tiny import save_tiny_model

if importlib.util.find_spec("vllm") is None:
    pytest.skip("needs vllm installed", allow_module_level=True)

pytestmark = [
    pytest.mark.timeout(900),
    # its own, and those of what it imports
    pytest.mark.filterwarnings("ignore"),
]

T = TypeVar("T")
BLOCK = 128
"""Positions that vLLM caches as one on a CPU; on a GPU, 16. Three memories are longer."""


class SharedLoop:
    """An engine and the loop it lives in, started once for a module."""

    def __init__(self, engine: VllmEngine, runner: asyncio.Runner) -> None:
        self.engine = engine
        self._runner = runner

    def run(self, scenario: Callable[[VllmEngine], Awaitable[T]], *, timeout_s: float = 300) -> T:
        async def play() -> T:
            result = await scenario(self.engine)
            await until_idle(self.engine)
            return result

        return self._runner.run(asyncio.wait_for(play(), timeout_s))


def start_eager(
    directory: Path, dtype: torch.dtype, settings: Settings
) -> tuple[Any, Sampling, type[Exception]]:
    """Without compiling: the tiny model is started several times."""
    return start_vllm(directory, dtype, settings, enforce_eager=True)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    place = tmp_path_factory.mktemp("vllm")
    # heads of 64: vLLM's attention has none of 16
    model = save_tiny_model(place / "model", hidden=256)
    common = {"home": place / "home", "cache": place / "cache", "model": str(model)}
    untrained = open_bundle(Settings(**common, device="cpu", slots=64, z_dim=32))
    return Settings(
        **common,
        engine="vllm",
        device="cpu",
        bundle=save_trained_bundle(place / "bundle", model, untrained),
        vllm_memory_fraction=float(os.environ.get("VLLM_TEST_MEMORY_FRACTION", "0.1")),
    )


@pytest.fixture(scope="module")
def shared(settings: Settings) -> Iterator[SharedLoop]:
    with asyncio.Runner() as runner:
        engine = VllmEngine(settings, start=start_eager)
        runner.run(engine.start())
        try:
            yield SharedLoop(engine, runner)
        finally:
            runner.run(engine.stop())


def request(seed: int, *, memories: int = 3, query: str = "dog") -> GenerationRequest:
    random = np.random.default_rng(seed)
    codes = [random.normal(size=(64, 32)).astype(np.float32) for _ in range(memories)]
    return GenerationRequest(query, 12, codes=codes)


def transformers_answers(settings: Settings, requests: list[GenerationRequest]) -> list[str]:
    async def ask() -> list[str]:
        engine = TransformersEngine(settings)
        await engine.start()
        try:
            return [(await answer(engine, each))[0] for each in requests]
        finally:
            await engine.stop()

    return asyncio.run(ask())


class TestRealVllm(GeneratorConformance):
    """All of the suite but what needs an engine before its start or after its end."""

    test_before_start_it_says_that_it_is_not_ready = None  # type: ignore[assignment]
    test_stopping_twice_does_no_harm_and_it_is_not_ready_after = None  # type: ignore[assignment]

    @pytest.fixture(autouse=True)
    def _shared(self, shared: SharedLoop) -> None:
        self.shared = shared

    def make_engine(self) -> Generator:
        return self.shared.engine

    def run(self, engine: Generator, scenario: Callable[[Generator], Awaitable[T]]) -> T:
        return self.shared.run(scenario)


def test_greedy_answers_equal_those_of_the_transformers_engine(
    settings: Settings, shared: SharedLoop
) -> None:
    requests = [request(n, memories=n % 4, query=f"dog {n}") for n in range(8)]
    expected = transformers_answers(settings, requests)
    assert len(set(expected)) == len(expected)  # else the test could not fail

    async def scenario(engine: VllmEngine) -> None:
        together = await asyncio.gather(*(answer(engine, each) for each in requests))
        assert [text for text, _ in together] == expected

    shared.run(scenario)


def test_the_prefix_cache_is_hit_and_never_by_another_memory(
    settings: Settings, shared: SharedLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memories of equal length; ``near`` differs from the first in one slot only."""
    first, second = request(100), request(101)
    near = request(100)
    near.codes[0][0] += 5
    requests = [first, second, near]
    expected = transformers_answers(settings, requests)
    assert expected[0] != expected[1]  # else the test could not fail
    cached: list[int] = []

    async def scenario(engine: VllmEngine) -> None:
        llm = engine._keeper.core._llm  # type: ignore[attr-defined]
        generate = llm.generate

        async def watched(*args: Any) -> Any:
            async for output in generate(*args):
                last = output
                yield output
            cached.append(last.num_cached_tokens)

        monkeypatch.setattr(llm, "generate", watched)
        for _ in range(2):
            for each, text in zip(requests, expected, strict=True):
                assert (await answer(engine, each))[0] == text
        await answer(engine, request(100, query="an altogether different question"))

    shared.run(scenario)
    first_time, again, other_question = cached[:3], cached[3:6], cached[6]
    bundle = open_bundle(settings)
    reader = Reader(bundle.base, bundle.expander, bundle.config.template)
    # the template's own blocks are everyone's: on a GPU they are short enough to be hit
    assert max(first_time) <= len(reader.prefix_tokens)
    assert min(again) >= BLOCK
    assert other_question >= BLOCK  # the same memories in front of another question


def test_ten_requests_that_leave_disturb_nobody_and_free_their_places(shared: SharedLoop) -> None:
    async def scenario(engine: VllmEngine) -> None:
        before = text_of(await collect(engine, request(1)))
        leaving = [
            chunks_of(engine, GenerationRequest("two words", 250, codes=request(seed).codes[:1]))
            for seed in range(10)
        ]
        staying = asyncio.create_task(collect(engine, request(1)))
        await asyncio.gather(*(anext(stream) for stream in leaving))
        await asyncio.gather(*(stream.aclose() for stream in leaving))
        assert text_of(await staying) == before
        await until_idle(engine)
        llm = engine._keeper.core._llm  # type: ignore[attr-defined]
        assert not llm.output_processor.has_unfinished_requests()

    shared.run(scenario)


def test_a_killed_engine_core_is_noticed_and_comes_back(
    shared: SharedLoop, capsys: pytest.CaptureFixture[str]
) -> None:
    async def scenario(engine: VllmEngine) -> tuple[float, float]:
        before = text_of(await collect(engine, request(1)))
        running = chunks_of(engine, GenerationRequest("two words", 300))
        await anext(running)
        killed = time.monotonic()
        for process in psutil.Process().children(recursive=True):
            if "EngineCore" in process.name() or "EngineCore" in " ".join(process.cmdline()):
                process.send_signal(signal.SIGKILL)
        with pytest.raises(EngineNotReadyError):
            async for _ in running:
                pass
        noticed_s = time.monotonic() - killed
        assert not engine.ready
        with pytest.raises(EngineNotReadyError) as refusal:
            await collect(engine, request(1))
        assert refusal.value.retry_after_s >= 1
        while not engine.ready:
            await asyncio.sleep(0.05)
        assert text_of(await collect(engine, request(1))) == before
        return noticed_s, time.monotonic() - killed

    noticed_s, back_s = shared.run(scenario, timeout_s=300)
    with capsys.disabled():
        print(f"\nnoticed after {noticed_s:.2f} s, answering again after {back_s:.1f} s")  # noqa: T201
    assert noticed_s < 5
