"""Asking every question under one setting, a bounded number at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from clients.async_client import AsyncClient
from clients.errors import APIError, ParamemError
from clients.evaluation.answers import AnswerScore, score_answer
from clients.evaluation.data import Question
from clients.evaluation.plan import Plan, Setting
from clients.events import DeltaEvent, DoneEvent
from clients.results import Answer

EMPTY = Answer(answer="")


@dataclass(frozen=True, slots=True)
class AskedQuestion:
    """One question's answer. Times are the client's own: from sending to the first and last
    piece of the answer."""

    question: Question
    answer: Answer
    score: AnswerScore
    ttft_ms: float
    total_ms: float
    error: str | None = None  # the server refused: counted as a wrong answer

    @property
    def document_ids(self) -> list[str]:
        return [memory.document_id for memory in self.answer.memories]


async def ask_questions(
    client: AsyncClient,
    questions: Sequence[Question],
    setting: Setting,
    plan: Plan,
    on_answer: Callable[[], None],
) -> list[AskedQuestion]:
    """In the order of ``questions``. Raises: ParamemError when the server is gone."""
    room = asyncio.Semaphore(plan.concurrency)

    async def ask(question: Question) -> AskedQuestion:
        async with room:
            asked = await _ask(client, question, setting, plan)
        on_answer()
        return asked

    gone: Exception | None = None
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ask(question)) for question in questions]
    except* ParamemError as errors:
        gone = errors.exceptions[0]  # One cause stops all of them: the server is gone.
    if (
        gone is not None
    ):  # raised in the clause above it would be a group again before Python 3.11.4
        raise gone
    return [task.result() for task in tasks]


async def _ask(
    client: AsyncClient, question: Question, setting: Setting, plan: Plan
) -> AskedQuestion:
    started = time.perf_counter()
    first: float | None = None
    answer, problem = EMPTY, None
    try:
        options = plan.query_options(setting, question)
        async with client.query_stream(question.question, **options) as events:
            async for event in events:
                if isinstance(event, DeltaEvent) and first is None:
                    first = time.perf_counter()
                elif isinstance(event, DoneEvent):
                    answer = event.answer
    except APIError as error:
        problem = str(error)
    ended = time.perf_counter()
    return AskedQuestion(
        question,
        answer,
        score_answer(answer.answer, question.answers),
        ttft_ms=1000 * ((first or ended) - started),
        total_ms=1000 * (ended - started),
        error=problem,
    )
