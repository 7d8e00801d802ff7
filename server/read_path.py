"""From a question to a token stream: select, load, generate, each stage timed.

Everything that can be refused is refused before the first token, so that even a streamed answer
gets the right HTTP status. Symbols: K = memories selected, m = slots, d = code dimension.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import cast

from memory_store.errors import NotFoundError
from memory_store.records import FloatArray, Hit, JobStatus
from memory_store.store import MemoryStore
from paramem.settings import ReaderKind
from server.engine.generator import (
    ATTENTION,
    BM25,
    HYBRID,
    LEXICAL,
    ROUTER,
    GenerationChunk,
    GenerationRequest,
    SelectionUnavailableError,
)
from server.errors import ApiError
from server.fusion import fuse_hits
from server.keys import ApiKey
from server.schemas.requests import QueryBody
from server.schemas.results import AnswerResult, SelectedMemory, Usage
from server.services import Services
from server.waiting import find_job, wait_until_final

READ_AFTER_TIMEOUT_S = 30.0


class Stopwatch:
    """Milliseconds since it was made, and of the stages run under it."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self.stages_ms: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.stages_ms[name] = 1e3 * (time.perf_counter() - started)

    def elapsed_ms(self) -> float:
        return 1e3 * (time.perf_counter() - self._started)


@dataclass(slots=True)
class Context:
    """What the LLM is given beside the query. At most one of codes and texts is filled."""

    hits: Sequence[Hit] = ()
    codes: Sequence[FloatArray] = ()  # K of (m, d)
    texts: Sequence[str] = ()


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
        return [SelectedMemory.of(hit) for hit in self.context.hits]

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
    context = await _gather(services, body, watch)
    request = GenerationRequest(
        query=body.query,
        max_new_tokens=body.max_new_tokens,
        codes=context.codes,
        texts=context.texts,
        temperature=body.temperature,
        seed=body.seed,
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
    collection = await services.read(services.store.collection, body.collection)
    services.check_readable(collection)
    chunks_only = collection.spec.slots == 0
    given = body.context
    if given is None:
        reads_text = chunks_only or services.settings.reader is ReaderKind.TEXT
        given = "text" if reads_text else "memory"
    if given == "none":
        return Context()
    if given == "memory" and chunks_only:
        raise ApiError(
            422,
            "context_unavailable",
            f"collection {collection.name} holds chunks of text, not memories: ask with context "
            '"text" or "none"',
            param="context",
        )
    available = (*services.engine_info().selections, *LEXICAL)
    selection = body.selection or available[0]
    if selection not in available:
        raise SelectionUnavailableError(
            f"selection {selection} is not available with the loaded bundle; choose one of: "
            + ", ".join(available)
        )
    with watch.stage("select"):
        selected = await _select(services, body, selection, watch)
    with watch.stage("load"):
        if given == "text":
            return await services.read(_load_texts, services.store, selected.hits)
        if selected.codes:
            return selected
        return await services.read(_load_codes, services.store, selected.hits)


async def _select(services: Services, body: QueryBody, selection: str, watch: Stopwatch) -> Context:
    """The ``top_k`` memories for the query, best first; with their codes if it took those."""
    if selection == BM25:
        return Context(await _by_words(services, body, body.top_k))
    if selection == HYBRID:
        candidates = max(body.top_k, services.settings.rerank_candidates)
        by_key = await _by_key(services, body, ROUTER, candidates, watch)
        by_words = await _by_words(services, body, candidates)
        return Context(fuse_hits([by_key, by_words])[: body.top_k])
    if selection == ATTENTION:
        candidates = max(body.top_k, services.settings.rerank_candidates)
        hits = await _by_key(services, body, ATTENTION, candidates, watch)
        return await _rerank(services, body, hits, watch)
    return Context(await _by_key(services, body, selection, body.top_k, watch))


async def _by_words(services: Services, body: QueryBody, wanted: int) -> list[Hit]:
    select = services.store.select_by_words
    return await services.read(select, body.collection, body.query, wanted, filters=body.filters)


async def _by_key(
    services: Services, body: QueryBody, selection: str, wanted: int, watch: Stopwatch
) -> list[Hit]:
    with watch.stage("embed"):
        vector = await services.engine.embed_query(body.query, selection)  # (d,)
    select = services.store.select
    return await services.read(select, body.collection, vector, wanted, filters=body.filters)


async def _rerank(
    services: Services, body: QueryBody, hits: list[Hit], watch: Stopwatch
) -> Context:
    if not hits:
        return Context()
    with watch.stage("rerank"):
        codes = await services.read(services.store.load_codes, [hit.memory for hit in hits])
        router = [hit.score for hit in hits]
        scores = await services.engine.rerank(body.query, codes, router)
    best = sorted(range(len(hits)), key=lambda number: scores[number], reverse=True)[: body.top_k]
    return Context(
        hits=[replace(hits[number], score=scores[number]) for number in best],
        codes=[codes[number] for number in best],
    )


def _load_codes(store: MemoryStore, hits: Sequence[Hit]) -> Context:
    return Context(hits, codes=store.load_codes([hit.memory for hit in hits]))


def _load_texts(store: MemoryStore, hits: Sequence[Hit]) -> Context:
    texts = []
    for hit in hits:
        text = store.passage_text(hit.memory)
        if text is None:
            raise ApiError(
                409,
                "text_not_kept",
                f"the text of document {hit.memory.document_id} was not kept (keep_text=false): "
                'ask with context "memory", or write it again with its text kept',
                param="context",
            )
        texts.append(text)
    return Context(hits, texts=texts)
