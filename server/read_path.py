"""From a question to a token stream: select, load, generate, each stage timed.

Everything that can be refused is refused before the first token, so that even a streamed answer
gets the right HTTP status. Symbols: K = memories selected, m = slots, d = code dimension.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import cast

from memory_model.coarsening import coarsen
from memory_store.errors import NotFoundError
from memory_store.records import JobStatus
from paramem.settings import ReaderKind
from server.engine.generator import (
    LEXICAL,
    GenerationChunk,
    GenerationRequest,
    SelectionUnavailableError,
)
from server.errors import ApiError
from server.keys import ApiKey
from server.schemas.requests import QueryBody
from server.schemas.results import AnswerResult, SelectedMemory, Usage
from server.selection import Context, select
from server.services import Services
from server.stopwatch import Stopwatch
from server.waiting import find_job, wait_until_final

READ_AFTER_TIMEOUT_S = 30.0


@dataclass(slots=True)
class Answering:
    """An answer whose first chunk has arrived."""

    services: Services
    context: Context
    watch: Stopwatch
    first: GenerationChunk
    rest: AsyncIterator[GenerationChunk]
    _text: list[str] = field(default_factory=list)
    _last: GenerationChunk | None = None

    @property
    def memories(self) -> list[SelectedMemory]:
        read = self.context.read
        return [
            SelectedMemory.of(hit, read=number < read)
            for number, hit in enumerate(self.context.hits)
        ]

    async def pieces(self) -> AsyncGenerator[str, None]:
        """The pieces of the answer as they come; afterwards ``result`` has the whole."""
        chunk = self.first
        while True:
            if chunk.text:
                self._text.append(chunk.text)
                yield chunk.text
            if chunk.finish_reason is not None:
                self._finish(chunk)
                return
            chunk = await anext(self.rest)

    async def whole(self) -> AnswerResult:
        """The answer once it is there, for who does not want the pieces."""
        async for _piece in self.pieces():
            pass
        return self.result()

    def _finish(self, last: GenerationChunk) -> None:
        self._last = last
        stages = self.watch.stages_ms
        stages.update(last.timings_ms)
        stages["total"] = self.watch.elapsed_ms()
        before = stages.get("select", 0.0) + stages.get("load", 0.0)
        stages.setdefault("prefill", stages["ttft"] - before)
        self.services.metrics.observe_answer(last, stages)

    def result(self) -> AnswerResult:
        last = self._last
        assert last is not None, "result() is for after the last piece"
        return AnswerResult(
            answer="".join(self._text),
            memories=self.memories,
            usage=Usage(
                prompt_tokens=last.prompt_tokens,
                memory_slots=last.memory_slots,
                completion_tokens=last.completion_tokens,
            ),
            timings_ms={name: round(ms, 3) for name, ms in self.watch.stages_ms.items()},
            finish_reason=last.finish_reason,
        )


async def begin_answer(
    services: Services, key: ApiKey, body: QueryBody, scope: AsyncExitStack
) -> Answering:
    """Run the read path up to the first token, for the holder of ``key``.

    Leaving ``scope`` frees the engine's slot, wherever the answer then is.
    Raises: whatever is wrong with the request, the collection or the engine.
    """
    body.check_limits(services.settings)
    key.check_collection(body.collection)
    waited_ms = await _wait_for_write(services, key, body.read_after)
    watch = Stopwatch()
    if waited_ms is not None:
        watch.stages_ms["wait"] = waited_ms
    # not before: who waits for a write must not be in its way
    scope.enter_context(services.store.right_of_way.held())
    context = await _gather(services, body, watch)
    request = GenerationRequest(
        query=body.query,
        max_new_tokens=body.max_new_tokens,
        codes=coarsen(context.codes, body.coarse_slots or services.engine_info().coarse_slots),
        texts=context.texts,
        temperature=body.temperature,
        seed=body.seed,
        ignore_eos=body.ignore_eos,
    )
    first, rest = await begin_generation(services, request, scope)
    watch.stages_ms["ttft"] = watch.elapsed_ms()
    return Answering(services, context, watch, first, rest)


async def begin_generation(
    services: Services, request: GenerationRequest, scope: AsyncExitStack
) -> tuple[GenerationChunk, AsyncIterator[GenerationChunk]]:
    """The first chunk, and the iterator of the others, which ``scope`` closes.

    Raises:
        ApiError: memories are to be read, and this server runs the reader of text.
    """
    if request.codes and services.settings.reader is ReaderKind.TEXT:
        raise ApiError(
            422,
            "context_unavailable",
            "this server runs the reader of text (PARAMEM_READER=text), which cannot read "
            'memories: ask with context "text" or "none"',
            param="context",
        )
    chunks = cast("AsyncGenerator[GenerationChunk, None]", services.engine.generate(request))
    scope.push_async_callback(chunks.aclose)
    return await anext(chunks), chunks


async def _wait_for_write(services: Services, key: ApiKey, job_id: str | None) -> float | None:
    """Milliseconds waited for the job; None if none was named."""
    if job_id is None:
        return None
    watch = Stopwatch()
    try:
        await find_job(services, key, job_id)
        job = await wait_until_final(services, job_id, timeout_s=READ_AFTER_TIMEOUT_S)
    except NotFoundError as error:
        raise NotFoundError(error.message, param="read_after") from None
    if not job.status.is_final:
        services.refuse_if_draining()
        raise ApiError(
            409,
            "read_after_timeout",
            f"job {job_id} is still {job.status} after {READ_AFTER_TIMEOUT_S:g} s: follow GET "
            f"/jobs/{job_id}/events and ask again when it has succeeded",
            param="read_after",
        )
    if job.status is not JobStatus.SUCCEEDED:
        reason = f" ({job.error_message})" if job.error_message else ""
        raise ApiError(
            409,
            "write_not_succeeded",
            f"job {job_id} is {job.status}{reason}: write the document again or POST "
            f"/jobs/{job_id}/retry, or ask without read_after",
            param="read_after",
        )
    return watch.elapsed_ms()


async def _gather(services: Services, body: QueryBody, watch: Stopwatch) -> Context:
    """Select and load what the LLM will be given."""
    if body.context == "none":
        services.check_readable(await services.read(services.store.collection, body.collection))
        return Context()
    available = (*services.engine_info().selections, *LEXICAL)
    selection = body.selection or available[0]
    if selection not in available:
        raise SelectionUnavailableError(
            f"selection {selection} is not available with the loaded bundle; choose one of: "
            + ", ".join(available)
        )
    with watch.stage("select"):
        context = await select(services, body, selection, watch)
    watch.stages_ms["select"] -= watch.stages_ms["load"]
    return context
