"""Who joins the running batch, and when: rows, room in the cache, a few positions at a time."""

from __future__ import annotations

import asyncio

import pytest
import torch

from server.engine.batch import FEWEST_COLUMNS, Batch
from server.engine.generator import GenerationRequest
from server.engine.kv_cache import bytes_per_position
from server.engine.transformers_engine import TransformersEngine
from tests.integration.engines.tiny_engine import request, with_engine
from tests.integration.engines.tiny_reading import TinyReadingModel, answer


def test_requests_beyond_the_batch_size_wait_their_turn(model: TinyReadingModel) -> None:
    requests = [request(number, max_new_tokens=3 + 5 * (number % 4)) for number in range(9)]
    expected = [model.reference(each) for each in requests]

    async def body(engine: TransformersEngine) -> None:
        answers = await asyncio.gather(*(answer(engine, each) for each in requests))
        assert [(text, last.completion_tokens) for text, last in answers] == expected

    with_engine(model, body, max_batch_size=2)


def test_requests_that_the_cache_has_no_room_for_wait_their_turn(
    model: TinyReadingModel, rows_of_steps: list[int]
) -> None:
    requests = [request(number) for number in range(6)]
    expected = [model.reference(each) for each in requests]

    async def body(engine: TransformersEngine) -> None:
        rows_of_steps.clear()  # of the steps at the start
        answers = await asyncio.gather(*(answer(engine, each) for each in requests))
        assert [(text, last.completion_tokens) for text, last in answers] == expected

    with torch.inference_mode():
        room_for_two = 2 * FEWEST_COLUMNS * bytes_per_position(model.lm) / 2**30
    with_engine(model, body, kv_cache_gib=room_for_two)
    assert max(rows_of_steps) == 2
    with_engine(model, body, kv_cache_gib=room_for_two / 100)  # one is never refused
    assert max(rows_of_steps) == 1


def test_a_prompt_larger_than_the_prefill_budget_is_served(
    model: TinyReadingModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.engine.scheduler.prefill_positions", lambda _device: 8)
    requests = [request(number) for number in range(4)]

    async def body(engine: TransformersEngine) -> None:
        answers = await asyncio.gather(*(answer(engine, each) for each in requests))
        assert [text for text, _ in answers] == [model.reference(each)[0] for each in requests]

    with_engine(model, body)


def test_a_crowd_is_prefilled_a_few_positions_at_a_time(
    model: TinyReadingModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefilled: list[list[int]] = []
    join = Batch.join

    def watched(batch: Batch, prompts: list[torch.Tensor], *rest: list[int]) -> torch.Tensor:
        prefilled.append([len(prompt) for prompt in prompts])
        return join(batch, prompts, *rest)

    monkeypatch.setattr(Batch, "join", watched)

    async def body(engine: TransformersEngine) -> None:
        prefilled.clear()  # what the engine tries when it starts
        crowd = [GenerationRequest(query="the mat " * 40, max_new_tokens=4) for _ in range(6)]
        await asyncio.gather(*(answer(engine, each) for each in crowd))

    with_engine(model, body)
    assert sum(map(len, prefilled)) == 6
    assert all(max(lengths) * len(lengths) <= 256 for lengths in prefilled)
    assert max(map(len, prefilled)) > 1, "short prompts still go together"
