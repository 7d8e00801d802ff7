"""The transformers engine answers each request as the model alone would, whoever else is there."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from paramem.settings import Settings
from server.engine.batch import Batch
from server.engine.cores import CORES
from server.engine.generator import (
    EngineError,
    EngineNotReadyError,
    GenerationRequest,
    PromptTooLongError,
    SelectionUnavailableError,
)
from server.engine.transformers_engine import TransformersEngine
from tests.integration.engines.tiny_engine import request, with_engine
from tests.integration.engines.tiny_reading import SLOTS, Z_DIM, TinyReadingModel, answer


@pytest.mark.parametrize("together", [1, 3, 8])
def test_answers_equal_those_of_generate_alone(model: TinyReadingModel, together: int) -> None:
    requests = [request(number) for number in range(together)]
    expected = [model.reference(each) for each in requests]
    assert len({text for text, _ in expected}) == together  # else the test could not fail

    async def body(engine: TransformersEngine) -> None:
        answers = await asyncio.gather(
            *(answer(engine, each, after_s=0.01 * i) for i, each in enumerate(requests))
        )
        for (text, last), (reference, tokens) in zip(answers, expected, strict=True):
            assert text == reference
            assert last.completion_tokens == tokens

    with_engine(model, body)


def test_a_stop_token_ends_the_answer_and_is_not_shown(model: TinyReadingModel) -> None:
    wish = request(5)
    with torch.inference_mode():
        prompt = model.prompt_embeds(wish.query, wish.codes, wish.texts)
        tokens = model.lm.generate(
            inputs_embeds=prompt[None],
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=24,
            do_sample=False,
            pad_token_id=0,
        )[0].tolist()
    stop = tokens[4]
    model.stop_token_ids = frozenset({stop})
    until = tokens.index(stop)

    async def body(engine: TransformersEngine) -> None:
        text, last = await answer(engine, wish)
        assert text == model.decode(tokens[:until])
        assert last.finish_reason == "stop"
        assert last.completion_tokens == until + 1

    with_engine(model, body)


def test_a_forward_has_all_cores_but_those_that_selecting_has_taken(
    model: TinyReadingModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    join = Batch.join

    def counting(batch: Batch, *given: Any) -> torch.Tensor:
        seen.append(torch.get_num_threads())
        return join(batch, *given)

    monkeypatch.setattr(Batch, "join", counting)

    async def body(engine: TransformersEngine) -> None:
        seen.clear()
        await answer(engine, request(1, max_new_tokens=1))
        with CORES.one_taken():  # as the helper does
            await answer(engine, request(1, max_new_tokens=1))
        await answer(engine, request(1, max_new_tokens=1))
        assert seen == [3, 2, 3]

    with_engine(model, body, num_threads=3)


def test_a_client_that_leaves_frees_its_row_and_disturbs_nobody(
    model: TinyReadingModel, rows_of_steps: list[int]
) -> None:
    staying = [request(number, max_new_tokens=60) for number in (1, 4)]
    expected = [model.reference(each)[0] for each in staying]
    endless = request(6, max_new_tokens=400)
    assert model.reference(endless)[1] == 400

    async def body(engine: TransformersEngine) -> None:
        leaving = engine.generate(endless)
        answers = [asyncio.create_task(answer(engine, each)) for each in staying]
        await anext(leaving)
        await leaving.aclose()
        assert [text for text, _ in await asyncio.gather(*answers)] == expected
        assert engine.load() == (0, 0)

    with_engine(model, body)
    # The engine finishes what it runs before it stops: a row that stayed would take 399 steps.
    assert len(rows_of_steps) < 399


def test_a_client_that_leaves_the_waiting_line_is_forgotten(model: TinyReadingModel) -> None:
    async def body(engine: TransformersEngine) -> None:
        first = engine.generate(request(1, max_new_tokens=400))
        await anext(first)
        waiting = asyncio.create_task(answer(engine, request(2)))
        await asyncio.sleep(0)
        while engine.load() != (1, 1):
            await asyncio.sleep(0.001)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert engine.load() == (1, 0)
        await first.aclose()

    with_engine(model, body, max_batch_size=1)


def test_a_seed_gives_the_same_sample_alone_and_in_company(model: TinyReadingModel) -> None:
    # 12 tokens: far from where differences of rounding could change a draw.
    seeded = [
        request(number, max_new_tokens=12, temperature=0.7, seed=number) for number in range(6)
    ]

    async def body(engine: TransformersEngine) -> None:
        alone = [await answer(engine, each) for each in seeded]
        company = [request(number, max_new_tokens=30) for number in range(7, 10)]
        together = await asyncio.gather(*(answer(engine, each) for each in [*seeded, *company]))
        assert [text for text, _ in together[: len(seeded)]] == [text for text, _ in alone]
        other, _ = await answer(engine, request(1, max_new_tokens=12, temperature=0.7, seed=99))
        assert other != alone[1][0]

    with_engine(model, body)


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_a_request_whose_logits_are_not_numbers_fails_alone(
    model: TinyReadingModel, monkeypatch: pytest.MonkeyPatch, temperature: float
) -> None:
    join = Batch.join

    def spoilt_join(
        batch: Batch, prompts: list[torch.Tensor], tokens: list[int] | tuple[()] = ()
    ) -> torch.Tensor:
        logits = join(batch, prompts, tokens)
        spoilt = torch.tensor([bool(prompt.isnan().any()) for prompt in prompts])
        assert logits[len(tokens) :].isnan().any(-1).equal(spoilt)
        assert not logits[: len(tokens)].isnan().any()
        return logits

    monkeypatch.setattr(Batch, "join", spoilt_join)
    bad = GenerationRequest(
        "dog", 5, codes=[np.full((SLOTS, Z_DIM), np.nan, np.float32)], temperature=temperature
    )
    good = request(1)

    async def body(engine: TransformersEngine) -> None:
        failed, (text, _) = await asyncio.gather(
            answer(engine, bad), answer(engine, good), return_exceptions=True
        )
        assert isinstance(failed, EngineError)
        assert text == model.reference(good)[0]

    with_engine(model, body)


def test_the_last_chunk_carries_totals_and_timings(model: TinyReadingModel) -> None:
    wish = request(2, max_new_tokens=5)
    positions = len(model.prompt_embeds(wish.query, wish.codes, wish.texts))

    async def body(engine: TransformersEngine) -> None:
        _, last = await answer(engine, wish)
        assert last.finish_reason == "length"
        assert (last.prompt_tokens, last.memory_slots) == (positions, 2 * SLOTS)
        assert set(last.timings_ms) == {"queue", "expand", "prefill", "decode"}
        assert all(spent_ms >= 0 for spent_ms in last.timings_ms.values())
        _, single = await answer(engine, request(2, max_new_tokens=1))
        assert single.completion_tokens == 1
        assert set(single.timings_ms) == set(last.timings_ms)

    with_engine(model, body)


def test_a_request_that_cannot_fit_is_told_the_limit(model: TinyReadingModel) -> None:
    async def body(engine: TransformersEngine) -> None:
        with pytest.raises(PromptTooLongError, match=r"max_new_tokens is 500.* 512"):
            await answer(engine, request(1, max_new_tokens=500))
        await answer(engine, request(1))

    with_engine(model, body)


def test_a_failing_step_fails_its_requests_and_the_engine_goes_on(
    model: TinyReadingModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = model.lm.forward
    broken = False

    def fragile(*args: Any, **kwargs: Any) -> Any:
        if broken:
            raise RuntimeError("the device fell over: secret detail")
        return forward(*args, **kwargs)

    monkeypatch.setattr(model.lm, "forward", fragile)

    async def body(engine: TransformersEngine) -> None:
        nonlocal broken
        running = engine.generate(request(1, max_new_tokens=400))
        await anext(running)
        broken = True
        with pytest.raises(EngineError) as decoding:
            async for _ in running:
                pass
        with pytest.raises(EngineError) as prefilling:
            await answer(engine, request(2))
        broken = False
        for failure in (decoding, prefilling):
            assert "secret" not in str(failure.value)
        assert engine.ready
        assert (await answer(engine, request(3)))[0] == model.reference(request(3))[0]

    with_engine(model, body)


def test_a_prompt_that_cannot_be_made_fails_alone(model: TinyReadingModel) -> None:
    wrong = GenerationRequest(
        query="dog", max_new_tokens=4, codes=[np.zeros((SLOTS, Z_DIM + 1), dtype=np.float32)]
    )

    async def body(engine: TransformersEngine) -> None:
        good, bad = await asyncio.gather(
            answer(engine, request(1)), answer(engine, wrong), return_exceptions=True
        )
        assert isinstance(bad, EngineError)
        assert not isinstance(good, BaseException)
        assert good[0] == model.reference(request(1))[0]

    with_engine(model, body)


def test_requests_of_an_engine_whose_thread_dies_are_told_and_the_model_is_kept(
    model: TinyReadingModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise SystemExit

    async def body(engine: TransformersEngine) -> None:
        with monkeypatch.context() as broken:
            broken.setattr("server.engine.scheduler.Scheduler._decode", die)
            requests = [request(number) for number in range(3)]  # one runs, two wait
            fates = await asyncio.gather(
                *(answer(engine, each) for each in requests), return_exceptions=True
            )
            assert [type(fate) for fate in fates] == [EngineNotReadyError] * 3
            assert not engine.ready
        while not engine.ready:
            await asyncio.sleep(0.01)
        assert (await answer(engine, request(1)))[0] == model.reference(request(1))[0]

    with_engine(model, body, max_batch_size=1)


def test_stopping_finishes_what_was_accepted_and_refuses_the_rest(model: TinyReadingModel) -> None:
    requests = [request(number, max_new_tokens=40) for number in range(3)]

    async def body(engine: TransformersEngine) -> None:
        accepted = [asyncio.create_task(answer(engine, each)) for each in requests]
        while sum(engine.load()) < len(requests):
            await asyncio.sleep(0.001)
        await asyncio.gather(engine.stop(), engine.stop())
        texts = [text for text, _ in await asyncio.gather(*accepted)]
        assert texts == [model.reference(each)[0] for each in requests]
        assert not engine.ready
        with pytest.raises(EngineNotReadyError):
            await answer(engine, request(1))

    with_engine(model, body, max_batch_size=2)


def test_an_engine_that_has_not_started_is_not_ready(model: TinyReadingModel) -> None:
    engine = TransformersEngine(Settings(), load_model=lambda _settings: model)
    assert not engine.ready
    with pytest.raises(EngineNotReadyError):
        asyncio.run(answer(engine, request(1)))


def test_the_engine_describes_its_model(model: TinyReadingModel) -> None:
    async def body(engine: TransformersEngine) -> None:
        info = engine.info
        assert (info.model, info.dtype, info.device) == ("tiny", "float32", "cpu")
        assert (info.spec.fingerprint, info.spec.slots, info.spec.z_dim) == ("tiny-1", SLOTS, Z_DIM)
        assert (info.context_tokens, info.selections) == (512, ("attention", "cosine"))
        assert (info.coarse_slots, info.score_margin) == (model.coarse_slots, model.score_margin)

    with_engine(model, body)


def test_new_collections_get_as_many_slots_as_the_settings_say(model: TinyReadingModel) -> None:
    async def main() -> None:
        engine = TransformersEngine(Settings(slots=SLOTS + 3), load_model=lambda _settings: model)
        await engine.start()
        assert engine.info.spec.slots == SLOTS + 3
        await engine.stop()

    asyncio.run(main())


def test_queries_become_vectors_by_the_selections_the_bundle_has(model: TinyReadingModel) -> None:
    async def body(engine: TransformersEngine) -> None:
        vector = await engine.embed_query("the cat", "cosine")
        assert vector.shape == (Z_DIM,)
        assert np.linalg.norm(vector) == pytest.approx(1)
        with pytest.raises(SelectionUnavailableError, match="cosine"):
            await engine.embed_query("the cat", "router")

    with_engine(model, body)


def test_the_engine_loads_the_model_that_the_settings_name(
    tiny_model: Path, tmp_path: Path
) -> None:
    settings = Settings(
        home=tmp_path, cache=tmp_path / "cache", model=str(tiny_model), slots=SLOTS, z_dim=Z_DIM
    )
    wish = request(2)

    async def main() -> None:
        engine = TransformersEngine(settings)
        await engine.start()
        try:
            spec = engine.info.spec
            assert (spec.slots, spec.z_dim) == (SLOTS, Z_DIM)
            for selection in engine.info.selections:
                vector = await engine.embed_query("the cat", selection)
                assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
            first, last = await answer(engine, wish)
            assert last.memory_slots == 2 * SLOTS
            assert (await answer(engine, wish))[0] == first
            remembered = GenerationRequest(query=None, max_new_tokens=4, codes=wish.codes)
            _, last = await answer(engine, remembered)
            assert 0 < last.completion_tokens <= 4
        finally:
            await engine.stop()

    asyncio.run(asyncio.wait_for(main(), 60))
