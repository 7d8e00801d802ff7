"""The vLLM engine: what vLLM is given, what it is never given, and what becomes of its answers."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from memory_model.bundle import Bundle
from memory_model.errors import BundleError
from paramem.settings import ReaderKind, Settings
from server.engine.generator import (
    EngineError,
    EngineNotReadyError,
    GenerationRequest,
    PromptTooLongError,
)
from server.engine.transformers_engine import TransformersEngine
from server.engine.vllm_engine import VllmEngine
from tests.integration.engines.conformance import chunks_of, until_idle
from tests.integration.engines.fake_vllm import FakeAsyncLLM, FakeVllm
from tests.integration.engines.tiny_engine import run_started
from tests.integration.engines.tiny_reading import answer
from tests.integration.engines.trained import save_trained_bundle

Body = Callable[[VllmEngine], Coroutine[Any, Any, None]]


@pytest.fixture
def settings(tiny_model: Path, tiny_bundle: Bundle, tmp_path: Path) -> Settings:
    bundle = save_trained_bundle(tmp_path / "bundle", tiny_model, tiny_bundle)
    return Settings(
        home=tmp_path / "home",
        cache=tmp_path / "cache",
        model=str(tiny_model),
        bundle=bundle,
        device="cpu",
        dtype="float32",  # of the transformers engine, too: to the bit
    )


@pytest.fixture
def vllm() -> FakeVllm:
    return FakeVllm()


def request(number: int, *, max_new_tokens: int = 12, **fields: Any) -> GenerationRequest:
    random = np.random.default_rng(number)
    return GenerationRequest(
        query=f"the cat sat on the log, dog {number}",
        max_new_tokens=max_new_tokens,
        codes=[random.normal(size=(4, 32)).astype(np.float32) for _ in range(number % 3)],
        texts=["the mat " * number] if number % 3 == 0 else [],
        **fields,
    )


def with_engine(settings: Settings, vllm: FakeVllm, body: Body) -> None:
    run_started(VllmEngine(settings, start=vllm), body)
    assert vllm.started[-1].shut_down


@pytest.mark.parametrize("reader", ReaderKind)
def test_answers_equal_those_of_the_transformers_engine(
    settings: Settings, vllm: FakeVllm, reader: ReaderKind
) -> None:
    settings = settings.model_copy(update={"reader": reader})
    requests = [request(number) for number in range(6)]

    async def expected() -> list[str]:
        engine = TransformersEngine(settings)
        await engine.start()
        try:
            return [(await answer(engine, each))[0] for each in requests]
        finally:
            await engine.stop()

    texts = asyncio.run(expected())
    assert len(set(texts)) == len(texts)  # else the test could not fail

    async def body(engine: VllmEngine) -> None:
        answers = await asyncio.gather(*(answer(engine, each) for each in requests))
        assert [text for text, _ in answers] == texts

    with_engine(settings, vllm, body)


def test_the_readers_lora_is_merged_into_what_vllm_loads(
    settings: Settings, vllm: FakeVllm, tiny_bundle: Bundle
) -> None:
    async def body(engine: VllmEngine) -> None:
        lm = vllm.started[0].lm
        assert not [name for name, _ in lm.named_parameters() if "lora" in name]
        plain = tiny_bundle.base.lm.model.layers[0].mlp.up_proj.weight
        assert not torch.equal(lm.model.layers[0].mlp.up_proj.weight, plain)

    with_engine(settings, vllm, body)


def test_only_four_sampling_fields_and_no_text_reach_vllm(
    settings: Settings, vllm: FakeVllm, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Any]] = []
    generate = FakeAsyncLLM.generate

    def watched(llm: FakeAsyncLLM, prompt: Any, sampling: Any, request_id: str) -> Any:
        seen.append(dataclasses.asdict(sampling))
        return generate(llm, prompt, sampling, request_id)

    monkeypatch.setattr(FakeAsyncLLM, "generate", watched)

    async def body(engine: VllmEngine) -> None:
        wish = request(2, temperature=0.5, seed=7)
        _, last = await answer(engine, wish)
        stops = seen[0].pop("stop_token_ids")
        assert seen == [{"max_tokens": 12, "temperature": 0.5, "seed": 7}]
        assert stops
        assert len(vllm.started[0].prompts[0]) == last.prompt_tokens

    with_engine(settings, vllm, body)


def test_leaving_a_stream_aborts_the_request_in_vllm(settings: Settings, vllm: FakeVllm) -> None:
    async def body(engine: VllmEngine) -> None:
        llm = vllm.started[0]
        leaving = chunks_of(engine, request(1, max_new_tokens=200))
        await anext(leaving)
        [request_id] = llm.running
        await leaving.aclose()
        assert llm.aborted == [request_id]
        assert not llm.running
        await answer(engine, request(2))
        assert llm.aborted == [request_id]  # an answer read to its end is not aborted

    with_engine(settings, vllm, body)


def test_a_client_that_disconnects_while_vllm_computes_is_aborted_too(
    settings: Settings, vllm: FakeVllm
) -> None:
    async def body(engine: VllmEngine) -> None:
        llm = vllm.started[0]
        reader = asyncio.create_task(answer(engine, request(1, max_new_tokens=200)))
        while not llm.running:
            await asyncio.sleep(0.001)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        assert len(llm.aborted) == 1
        assert engine.load() == (0, 0)

    with_engine(settings, vllm, body)


def test_a_prompt_that_is_too_long_never_reaches_vllm(settings: Settings, vllm: FakeVllm) -> None:
    async def body(engine: VllmEngine) -> None:
        vllm.started[0].model_config.max_model_len = 64  # less memory than the model's context
        assert engine.info.context_tokens == 64
        with pytest.raises(PromptTooLongError, match=r"max_new_tokens is 60.* 64"):
            await answer(engine, request(1, max_new_tokens=60))
        assert not vllm.started[0].prompts

    with_engine(settings, vllm, body)


def test_an_answer_that_vllm_cuts_short_is_an_error(
    settings: Settings, vllm: FakeVllm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeAsyncLLM, "_generate", lambda *_: [5, 6])

    async def body(engine: VllmEngine) -> None:
        with pytest.raises(EngineError, match="log says why"):
            await answer(engine, request(1))
        assert engine.ready

    with_engine(settings, vllm, body)


def test_what_vllm_says_of_a_failed_request_is_not_shown_and_it_goes_on(
    settings: Settings, vllm: FakeVllm, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> list[int]:
        raise RuntimeError("secret detail")

    async def body(engine: VllmEngine) -> None:
        with monkeypatch.context() as broken:
            broken.setattr(FakeAsyncLLM, "_generate", fail)
            with pytest.raises(EngineError) as failure:
                await answer(engine, request(1))
        assert "secret" not in str(failure.value)
        assert not isinstance(failure.value, EngineNotReadyError)
        await answer(engine, request(1))
        assert len(vllm.started) == 1

    with_engine(settings, vllm, body)


def test_a_core_that_tells_its_requests_first_is_dead_at_once(
    settings: Settings, vllm: FakeVllm, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(engine: VllmEngine) -> None:
        dead = vllm.started[0]
        with monkeypatch.context() as broken:
            broken.setattr(dead, "_refuse_if_dead", FakeAsyncLLM._refuse_if_dead.__get__(_Dead()))
            with pytest.raises(EngineNotReadyError):
                await answer(engine, request(1))
            assert not dead.errored
            assert not engine.ready
        while not engine.ready:
            await asyncio.sleep(0.01)
        assert dead.shut_down
        assert len(vllm.started) == 2

    with_engine(settings, vllm, body)


class _Dead:
    errored = True


def test_the_merged_weights_are_written_once_and_again_if_damaged(
    settings: Settings, vllm: FakeVllm, monkeypatch: pytest.MonkeyPatch
) -> None:
    from memory_model import export

    written: list[Path] = []
    write = export._export

    def counted(bundle: Bundle, directory: Path) -> None:
        written.append(directory)
        write(bundle, directory)

    monkeypatch.setattr(export, "_export", counted)

    async def body(engine: VllmEngine) -> None:
        assert engine.ready

    with_engine(settings, vllm, body)
    with_engine(settings, vllm, body)
    assert len(written) == 1
    file = written[0] / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    with_engine(settings, vllm, body)
    assert len(written) == 2
    assert file.read_bytes() != bytes(content)


def test_quantised_weights_are_refused_with_the_setting(settings: Settings) -> None:
    from memory_model.export import export_reader
    from memory_model.runtime import open_bundle

    bundle = open_bundle(settings)
    quantised = dataclasses.replace(
        bundle, base=dataclasses.replace(bundle.base, quantization="nf4")
    )
    with pytest.raises(BundleError, match="PARAMEM_QUANTIZATION=none"):
        export_reader(quantised, settings.cache, settings.reader)


def test_requests_running_at_a_stop_are_finished(settings: Settings, vllm: FakeVllm) -> None:
    async def body(engine: VllmEngine) -> None:
        accepted = [asyncio.create_task(answer(engine, request(n))) for n in range(3)]
        while sum(engine.load()) < 3:
            await asyncio.sleep(0.001)
        await asyncio.gather(engine.stop(), engine.stop())
        assert all(last.finish_reason for _, last in await asyncio.gather(*accepted))
        await until_idle(engine)

    with_engine(settings, vllm, body)
