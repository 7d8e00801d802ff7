"""What an answer's reader gets: everything, in order, in as few pieces as it is late."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from server.engine.answer import Answer, send
from server.engine.generator import EngineError, GenerationChunk
from server.engine.transcript import Transcript


def read(*items: GenerationChunk | EngineError, calls: int) -> list[GenerationChunk | EngineError]:
    """What so many calls give once all items have come."""

    async def main() -> list[GenerationChunk | EngineError]:
        answer = Answer(cast(Transcript, None), asyncio.get_running_loop())
        for item in items:
            send([(answer, item)])
        await asyncio.sleep(0)
        got: list[GenerationChunk | EngineError] = []
        for _ in range(calls):
            try:
                got.append(await asyncio.wait_for(answer.next_chunk(), 5))
            except EngineError as error:
                got.append(error)
        return got

    return asyncio.run(main())


def test_what_came_while_nobody_read_is_one_piece() -> None:
    last = GenerationChunk("c", finish_reason="stop", completion_tokens=3)
    [whole] = read(GenerationChunk("a"), GenerationChunk("b"), last, calls=1)
    assert whole == GenerationChunk("abc", finish_reason="stop", completion_tokens=3)


def test_an_error_comes_after_what_was_said_before_it() -> None:
    error = EngineError("the engine stopped")
    pieces = read(GenerationChunk("a"), GenerationChunk("b"), error, calls=2)
    assert pieces == [GenerationChunk("ab"), error]


def test_a_reader_who_keeps_up_gets_each_piece() -> None:
    async def main() -> list[str]:
        answer = Answer(cast(Transcript, None), asyncio.get_running_loop())
        texts = []
        for text in "abc":
            send([(answer, GenerationChunk(text))])
            texts.append((await asyncio.wait_for(answer.next_chunk(), 5)).text)
        return texts

    assert asyncio.run(main()) == ["a", "b", "c"]


def test_an_error_alone_is_raised() -> None:
    async def main() -> None:
        answer = Answer(cast(Transcript, None), asyncio.get_running_loop())
        answer.fail(EngineError("out of memory"))
        await asyncio.wait_for(answer.next_chunk(), 5)

    with pytest.raises(EngineError, match="out of memory"):
        asyncio.run(main())
