"""Sending the requests of a schedule and timing their answers."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from clients.async_client import AsyncClient
from clients.calls import QueryOptions
from clients.errors import APIError, ParamemError
from clients.evaluation.data import QuestionSet
from clients.events import DeltaEvent, DoneEvent
from clients.loadtest.schedule import Schedule
from clients.retries import RetryPolicy

ONCE = RetryPolicy(attempts=1)
"""A refusal under load is a result, not something to try again."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One request. Milliseconds of the client's clock, from when it was due."""

    ttft_ms: float
    e2e_ms: float
    itl_ms: tuple[float, ...]  # between pieces of the answer
    prompt_positions: int = 0
    completion_tokens: int = 0
    error: str | None = None
    server_ms: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Replayed:
    samples: Sequence[Sample]  # in the order of the schedule
    seconds: float  # from the first request to the last answer


async def replay_on(
    url: str,
    schedule: Schedule,
    questions: QuestionSet,
    options: QueryOptions,
    on_answer: Callable[[], None] = lambda: None,
) -> Replayed:
    """:func:`replay` with a client of its own, questions drawn from a set."""
    drawn = schedule.draw([question.question for question in questions.questions])
    async with AsyncClient(url, retries=ONCE) as client:
        return await replay(client, schedule, drawn, options, on_answer)


async def replay(
    client: AsyncClient,
    schedule: Schedule,
    questions: Sequence[str],
    options: QueryOptions,
    on_answer: Callable[[], None],
) -> Replayed:
    """``questions``: one for each request. A request that fails is a sample with an error."""
    for question in questions[: schedule.warmup]:
        await _ask(client, question, options, time.perf_counter())
        on_answer()
    due = schedule.due_s()
    started = time.perf_counter()
    room = asyncio.Semaphore(schedule.concurrency if due is None else schedule.requests)

    async def send(number: int) -> Sample:
        if due is not None:
            await asyncio.sleep(max(0.0, started + due[number] - time.perf_counter()))
        async with room:
            origin = time.perf_counter() if due is None else started + due[number]
            sample = await _ask(client, questions[number], options, origin)
        on_answer()
        return sample

    samples = await asyncio.gather(*(send(number) for number in range(schedule.requests)))
    return Replayed(samples, time.perf_counter() - started)


async def _ask(client: AsyncClient, question: str, options: QueryOptions, origin: float) -> Sample:
    """``origin``: of the times, on the clock of ``time.perf_counter``."""
    pieces: list[float] = []
    usage: dict[str, int] = {}
    server_ms: Mapping[str, float] = {}
    error = None
    try:
        async with client.query_stream(question, **options) as events:
            async for event in events:
                if isinstance(event, DeltaEvent):
                    pieces.append(time.perf_counter())
                elif isinstance(event, DoneEvent):
                    used = event.answer.usage
                    usage = {
                        "prompt_positions": used.prompt_tokens,
                        "completion_tokens": used.completion_tokens,
                    }
                    server_ms = event.answer.timings_ms
    except APIError as refusal:
        error = refusal.code or str(refusal.status)
    except ParamemError as broken:
        error = type(broken).__name__
    ended = time.perf_counter()
    first = pieces[0] if pieces else ended
    return Sample(
        ttft_ms=1000 * (first - origin),
        e2e_ms=1000 * (ended - origin),
        itl_ms=tuple(1000 * (b - a) for a, b in itertools.pairwise(pieces)),
        error=error,
        server_ms=server_ms,
        **usage,
    )
