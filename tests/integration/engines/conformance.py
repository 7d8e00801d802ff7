"""What every ``Generator`` must do; each engine's test file derives a class from the suite.

A subclass gives ``make_engine``; the engine it makes must answer a query of two words at length
(so that a stream can be left in the middle).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TypeVar, cast

import numpy as np
import pytest

from memory_store.records import FloatArray
from server.engine.generator import (
    ATTENTION,
    EngineNotReadyError,
    GenerationChunk,
    GenerationRequest,
    Generator,
    PromptTooLongError,
    SelectionUnavailableError,
)

T = TypeVar("T")
TIMEOUT_S = 60.0


def chunks_of(
    engine: Generator, request: GenerationRequest
) -> AsyncGenerator[GenerationChunk, None]:
    return cast("AsyncGenerator[GenerationChunk, None]", engine.generate(request))


async def collect(engine: Generator, request: GenerationRequest) -> list[GenerationChunk]:
    return [chunk async for chunk in chunks_of(engine, request)]


def text_of(chunks: list[GenerationChunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


async def until_idle(engine: Generator) -> None:
    while engine.load() != (0, 0):
        await asyncio.sleep(0.005)


class GeneratorConformance:
    def make_engine(self) -> Generator:
        raise NotImplementedError

    @pytest.fixture
    def engine(self) -> Generator:
        """Not started."""
        return self.make_engine()

    def run(self, engine: Generator, scenario: Callable[[Generator], Awaitable[T]]) -> T:
        """Start, play, stop; nothing may be left in the engine."""

        async def play() -> T:
            await engine.start()
            try:
                result = await scenario(engine)
                await until_idle(engine)
                return result
            finally:
                await engine.stop()

        return asyncio.run(asyncio.wait_for(play(), TIMEOUT_S))

    def codes(self, engine: Generator, count: int, seed: int = 0) -> list[FloatArray]:
        """``count`` random codes of (m, d)."""
        spec = engine.info.spec
        random = np.random.default_rng(seed)
        shape = (spec.slots, spec.z_dim)
        return [random.normal(size=shape).astype(np.float32) for _ in range(count)]

    def test_before_start_it_says_that_it_is_not_ready(self, engine: Generator) -> None:
        assert not engine.ready
        with pytest.raises(EngineNotReadyError):
            _ = engine.info

        async def ask() -> None:
            with pytest.raises(EngineNotReadyError):
                await engine.embed_query("two words", "router")
            with pytest.raises(EngineNotReadyError):
                await collect(engine, GenerationRequest("two words", 4))

        asyncio.run(ask())
        assert engine.load() == (0, 0)

    def test_stopping_twice_does_no_harm_and_it_is_not_ready_after(self, engine: Generator) -> None:
        async def scenario(engine: Generator) -> None:
            assert engine.ready
            await engine.stop()

        self.run(engine, scenario)
        assert not engine.ready
        with pytest.raises(EngineNotReadyError):
            _ = engine.info

    def test_the_totals_come_on_the_last_chunk_and_only_there(self, engine: Generator) -> None:
        async def scenario(engine: Generator) -> tuple[list[GenerationChunk], int]:
            codes = self.codes(engine, 2)
            request = GenerationRequest("two words", 8, codes=codes)
            return await collect(engine, request), 2 * engine.info.spec.slots

        chunks, slots = self.run(engine, scenario)
        assert all(chunk.finish_reason is None for chunk in chunks[:-1])
        last = chunks[-1]
        assert last.finish_reason in ("stop", "length")
        assert last.memory_slots == slots
        assert last.prompt_tokens > slots
        assert 0 < last.completion_tokens <= 8
        assert {"queue", "prefill", "decode"} <= last.timings_ms.keys()
        assert all(ms >= 0 for ms in last.timings_ms.values())

    @pytest.mark.parametrize("limit", [1, 3, 6])
    def test_max_new_tokens_is_the_most_there_are(self, engine: Generator, limit: int) -> None:
        async def scenario(engine: Generator) -> GenerationChunk:
            return (await collect(engine, GenerationRequest("two words", limit)))[-1]

        last = self.run(engine, scenario)
        assert last.completion_tokens <= limit
        assert (last.finish_reason == "length") == (last.completion_tokens == limit)

    def test_an_answer_that_ignores_its_end_takes_all_the_tokens_it_may(
        self, engine: Generator
    ) -> None:
        async def scenario(engine: Generator) -> tuple[GenerationChunk, str, str]:
            full = await collect(engine, GenerationRequest("two words", 48, ignore_eos=True))
            plain = await collect(engine, GenerationRequest("two words", 48))
            return full[-1], text_of(full), text_of(plain)

        last, text, plain = self.run(engine, scenario)
        assert (last.finish_reason, last.completion_tokens) == ("length", 48)
        assert text.startswith(plain.rstrip("\ufffd"))

    def test_a_shorter_greedy_answer_is_the_beginning_of_the_longer(
        self, engine: Generator
    ) -> None:
        async def scenario(engine: Generator) -> tuple[str, str]:
            long = await collect(engine, GenerationRequest("two words", 8))
            short = await collect(engine, GenerationRequest("two words", 4))
            return text_of(long), text_of(short)

        long, short = self.run(engine, scenario)
        assert long.startswith(short.rstrip("\ufffd"))  # a cut may fall inside a character

    def test_greedy_answers_repeat_alone_and_in_company(self, engine: Generator) -> None:
        async def scenario(engine: Generator) -> None:
            requests = [
                GenerationRequest(f"question {n}", 6, codes=self.codes(engine, n % 3, seed=n))
                for n in range(6)
            ]
            alone = [text_of(await collect(engine, request)) for request in requests]
            together = await asyncio.gather(*(collect(engine, request) for request in requests))
            assert [text_of(chunks) for chunks in together] == alone

        self.run(engine, scenario)

    def test_the_same_seed_samples_the_same_answer(self, engine: Generator) -> None:
        async def scenario(engine: Generator) -> list[str]:
            return [
                text_of(
                    await collect(
                        engine, GenerationRequest("two words", 8, temperature=1.5, seed=seed)
                    )
                )
                for seed in (1, 1, 2, 3, 4)
            ]

        first, again, *others = self.run(engine, scenario)
        assert first == again
        assert any(other != first for other in others)

    def test_memories_change_the_answer(self, engine: Generator) -> None:
        async def scenario(engine: Generator) -> set[str]:
            contexts = [[], *(self.codes(engine, 1, seed) for seed in range(3))]
            return {
                text_of(await collect(engine, GenerationRequest("two words", 8, codes=codes)))
                for codes in contexts
            }

        assert len(self.run(engine, scenario)) > 1

    def test_passages_may_come_as_text(self, engine: Generator) -> None:
        async def scenario(engine: Generator) -> None:
            plain = (await collect(engine, GenerationRequest("two words", 2)))[-1]
            request = GenerationRequest("two words", 2, texts=["the cat sat", "on the mat"])
            last = (await collect(engine, request))[-1]
            assert last.memory_slots == 0
            assert last.prompt_tokens > plain.prompt_tokens

        self.run(engine, scenario)

    def test_without_a_query_it_recites_a_memory(self, engine: Generator) -> None:
        async def scenario(engine: Generator) -> None:
            request = GenerationRequest(None, 6, codes=self.codes(engine, 1))
            chunks = await collect(engine, request)
            assert text_of(chunks) == text_of(await collect(engine, request))
            assert chunks[-1].memory_slots == engine.info.spec.slots
            assert chunks[-1].completion_tokens <= 6

        self.run(engine, scenario)

    def test_leaving_a_stream_frees_its_place(self, engine: Generator) -> None:
        async def scenario(engine: Generator) -> None:
            stream = chunks_of(engine, GenerationRequest("two words", 200))
            await anext(stream)
            assert engine.load() == (1, 0)
            await stream.aclose()
            await until_idle(engine)
            assert await collect(engine, GenerationRequest("two words", 2))

        self.run(engine, scenario)

    def test_cancelling_the_reader_frees_its_place(self, engine: Generator) -> None:
        async def scenario(engine: Generator) -> None:
            reader = asyncio.create_task(collect(engine, GenerationRequest("two words", 200)))
            while engine.load()[0] == 0 and not reader.done():
                await asyncio.sleep(0)
            reader.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reader
            await until_idle(engine)

        self.run(engine, scenario)

    def test_a_prompt_that_does_not_fit_is_refused_with_the_limit(self, engine: Generator) -> None:
        async def scenario(engine: Generator) -> None:
            limit = engine.info.context_tokens
            stream = chunks_of(engine, GenerationRequest("word " * (limit + 1), 4))
            with pytest.raises(PromptTooLongError, match=str(limit)):
                await anext(stream)
            await stream.aclose()

        self.run(engine, scenario)

    def test_query_vectors_have_unit_norm_in_every_selection(self, engine: Generator) -> None:
        async def scenario(engine: Generator) -> None:
            for selection in engine.info.selections:
                for query in ("two words", "?!", "ünï"):
                    vector = await engine.embed_query(query, selection)
                    assert vector.shape == (engine.info.spec.z_dim,)
                    assert vector.dtype == np.float32
                    assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-3)

        self.run(engine, scenario)

    def test_each_memory_has_slot_vectors_of_its_own_whatever_is_beside_it(
        self, engine: Generator
    ) -> None:
        async def scenario(engine: Generator) -> None:
            codes = self.codes(engine, 3)
            if ATTENTION not in engine.info.selections:
                with pytest.raises(SelectionUnavailableError, match="router"):
                    await engine.slot_vectors(codes)
                with pytest.raises(SelectionUnavailableError, match="router"):
                    await engine.read_query("two words")
                return
            query = (await engine.read_query("two words")).vectors  # (T, r)
            together = await engine.slot_vectors(codes)
            [alone] = await engine.slot_vectors(codes[1:2])
            assert [each.dtype for each in together] == [np.float16] * 3
            assert {each.shape for each in together} == {(engine.info.spec.slots, query.shape[1])}
            np.testing.assert_allclose(together[1], alone, atol=2e-3)
            assert not np.allclose(together[0], together[1], atol=2e-3)

        self.run(engine, scenario)

    def test_queries_that_come_together_are_selected_for_as_if_alone(
        self, engine: Generator
    ) -> None:
        queries = ["two words", "?!", "five words and a name", "two words"]

        async def scenario(engine: Generator) -> None:
            for selection in engine.info.selections:
                alone = [await engine.embed_query(query, selection) for query in queries]
                crowd = (engine.embed_query(query, selection) for query in queries)
                np.testing.assert_allclose(await asyncio.gather(*crowd), alone, atol=1e-4)
            if ATTENTION not in engine.info.selections:
                return
            readings = [await engine.read_query(query) for query in queries]
            together = await asyncio.gather(*(engine.read_query(query) for query in queries))
            for each, expected in zip(together, readings, strict=True):
                np.testing.assert_allclose(each.vectors, expected.vectors, atol=1e-4)
                assert each.words == expected.words

        self.run(engine, scenario)

    def test_an_unknown_selection_is_refused_with_the_known_ones(self, engine: Generator) -> None:
        async def scenario(engine: Generator) -> None:
            with pytest.raises(SelectionUnavailableError, match=engine.info.selections[0]):
                await engine.embed_query("two words", "clairvoyance")

        self.run(engine, scenario)
