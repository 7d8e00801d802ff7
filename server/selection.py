"""Which memories a query is answered from, and what the LLM reads of them.

Symbols: K = memories selected, m = slots, d = code dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from memory_store.records import FloatArray, Hit
from memory_store.store import MemoryStore
from paramem.settings import ReaderKind
from server.engine.generator import ATTENTION, BM25, HYBRID, ROUTER
from server.errors import ApiError
from server.fusion import fuse_hits
from server.schemas.requests import QueryBody
from server.services import Services
from server.stopwatch import Stopwatch


@dataclass(slots=True)
class Context:
    """What the LLM is given beside the query. At most one of codes and texts is filled."""

    hits: Sequence[Hit] = ()  # K, best first
    codes: Sequence[FloatArray] = ()  # of those that are read, each (m, d)
    texts: Sequence[str] = ()  # likewise

    @property
    def read(self) -> int:
        """How many of the hits are read: the first ones."""
        return len(self.codes or self.texts)


async def select(services: Services, body: QueryBody, selection: str, watch: Stopwatch) -> Context:
    """The ``top_k`` memories for the query, best first, with codes or texts of those to read.

    Raises: NotFoundError, FingerprintMismatchError, InvalidFilterError, CorruptionError, ApiError.
    """
    vector: FloatArray | None = None
    if selection != BM25:
        with watch.stage("embed"):
            head = ROUTER if selection == HYBRID else selection
            vector = await services.engine.embed_query(body.query, head)  # (d,)
    candidates = max(body.top_k, services.settings.rerank_candidates)
    margin = body.score_margin
    if margin is None and selection == ATTENTION:
        margin = services.engine_info().score_margin

    def find() -> list[Hit]:
        """What the store has for it."""
        by_words = partial(
            services.store.select_by_words, body.collection, body.query, filters=body.filters
        )
        if vector is None:
            return by_words(body.top_k)
        by_key = partial(services.store.select, body.collection, vector, filters=body.filters)
        if selection == HYBRID:
            return fuse_hits([by_key(candidates), by_words(candidates)])[: body.top_k]
        return by_key(candidates if selection == ATTENTION else body.top_k)

    def find_and_load() -> tuple[Context, bool]:
        """In one call, since each costs a turn of a thread; with whether texts are to be read."""
        as_text = _reads_text(services, body)
        load = _load_texts if as_text else _load_codes
        hits = find()
        with watch.stage("load"):
            if selection == ATTENTION:
                return _load_codes(services.store, hits, len(hits)), as_text
            read = near_the_best([hit.score for hit in hits], margin)
            return load(services.store, hits, read), as_text

    found, as_text = await services.read(find_and_load)
    if selection != ATTENTION:
        return found
    best = await _rerank(services, body, found, watch)
    read = near_the_best([hit.score for hit in best.hits], margin)
    if not as_text:
        return replace(best, codes=best.codes[:read])
    with watch.stage("load"):
        return await services.read(_load_texts, services.store, best.hits, read)


def _reads_text(services: Services, body: QueryBody) -> bool:
    """Whether the LLM is given the passages of this collection as text, not as memories."""
    collection = services.store.collection(body.collection)
    services.check_readable(collection)
    chunks_only = collection.spec.slots == 0
    if body.context is None:
        return chunks_only or services.settings.reader is ReaderKind.TEXT
    if body.context == "memory" and chunks_only:
        raise ApiError(
            422,
            "context_unavailable",
            f"collection {collection.name} holds chunks of text, not memories: ask with context "
            '"text" or "none"',
            param="context",
        )
    return body.context == "text"


def near_the_best(scores: Sequence[float], margin: float | None) -> int:
    """How many of the scores, best first, are at most ``margin`` below the first. None = all."""
    if margin is None:
        return len(scores)
    return sum(score >= scores[0] - margin for score in scores)


async def _rerank(services: Services, body: QueryBody, found: Context, watch: Stopwatch) -> Context:
    """The ``top_k`` best of the candidates, by all of their slots."""
    if not found.hits:
        return found
    with watch.stage("rerank"):
        router = [hit.score for hit in found.hits]
        scores = await services.engine.rerank(body.query, found.codes, router)
    best = sorted(range(len(scores)), key=lambda number: scores[number], reverse=True)
    best = best[: body.top_k]
    return Context(
        hits=[replace(found.hits[number], score=scores[number]) for number in best],
        codes=[found.codes[number] for number in best],
    )


def _load_codes(store: MemoryStore, hits: Sequence[Hit], read: int) -> Context:
    """``read``: how many of the hits, from the first, the LLM is given."""
    return Context(hits, codes=store.load_codes([hit.memory for hit in hits[:read]]))


def _load_texts(store: MemoryStore, hits: Sequence[Hit], read: int) -> Context:
    texts = []
    for hit in hits[:read]:
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
