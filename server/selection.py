"""Which memories a query is answered from, and what the LLM reads of them.

Symbols: K = memories selected, m = slots, d = code dimension.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter

from memory_model.shared_words import Words, words_of
from memory_store.records import FloatArray, Hit, Memory
from memory_store.store import MemoryStore
from paramem.settings import ReaderKind
from server.engine.generator import ATTENTION, BM25, HYBRID, ROUTER
from server.errors import ApiError
from server.fusion import fuse_hits
from server.reranking import Candidate, score_candidates
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


@dataclass(frozen=True, slots=True)
class _Candidates:
    """What the router found, to be re-ranked."""

    hits: Sequence[Hit]  # C
    seen: Sequence[Candidate]  # C, as the re-ranker sees them
    as_text: bool  # whether the LLM is to be given texts
    at_ms: float  # when they were found


async def select(services: Services, body: QueryBody, selection: str, watch: Stopwatch) -> Context:
    """The ``top_k`` memories for the query, best first, with codes or texts of those to read.

    Raises: NotFoundError, FingerprintMismatchError, InvalidFilterError, CorruptionError, ApiError.
    """
    if selection == ATTENTION:
        return await _select_by_attention(services, body, watch)
    vector: FloatArray | None = None
    if selection != BM25:
        with watch.stage("embed"):
            head = ROUTER if selection == HYBRID else selection
            vector = await services.engine.embed_query(body.query, head)  # (d,)

    def find() -> list[Hit]:
        by_words = partial(
            services.store.select_by_words, body.collection, body.query, filters=body.filters
        )
        if vector is None:
            return by_words(body.top_k)
        by_key = partial(services.store.select, body.collection, vector, filters=body.filters)
        if selection == HYBRID:
            candidates = _num_candidates(services, body)
            return fuse_hits([by_key(candidates), by_words(candidates)])[: body.top_k]
        return by_key(body.top_k)

    def find_and_load() -> Context:
        """In one call, since each costs a turn of a thread."""
        as_text = _reads_text(services, body)
        return _load(services.store, find(), body.score_margin, watch, as_text=as_text)

    return await services.read(find_and_load)


async def _select_by_attention(services: Services, body: QueryBody, watch: Stopwatch) -> Context:
    """The best of the router's candidates, by all of their slots and the words of their texts."""

    async def find() -> _Candidates:
        with watch.stage("embed"):
            vector = await services.engine.embed_query(body.query, ATTENTION)  # (d,)
        hits, as_text = await services.read(search, vector)
        found_ms = watch.elapsed_ms()
        seen = await _see(services, [hit.memory for hit in hits])
        return _Candidates(hits, seen, as_text, found_ms)

    def search(vector: FloatArray) -> tuple[Sequence[Hit], bool]:
        as_text = _reads_text(services, body)
        number = _num_candidates(services, body)
        hits = services.store.select(body.collection, vector, number, filters=body.filters)
        return hits, as_text

    # the engine reads the query while the store searches
    found, query = await asyncio.gather(find(), services.engine.read_query(body.query))
    hits = found.hits
    info = services.engine_info()
    margin = info.score_margin if body.score_margin is None else body.score_margin

    def rank_and_load() -> Context:
        router = [hit.score for hit in hits]
        scores = score_candidates(query, found.seen, router, info.router_weight)
        best = sorted(zip(scores, hits, strict=True), key=itemgetter(0), reverse=True)
        watch.stages_ms["rerank"] = watch.elapsed_ms() - found.at_ms
        ranked = [replace(hit, score=score) for score, hit in best[: body.top_k]]
        return _load(services.store, ranked, margin, watch, as_text=found.as_text)

    return await services.read(rank_and_load)


def _num_candidates(services: Services, body: QueryBody) -> int:
    return max(body.top_k, services.settings.rerank_candidates)


async def _see(services: Services, memories: Sequence[Memory]) -> list[Candidate]:
    """As the re-ranker sees them. Only those not lately asked for are read."""
    cache = services.candidates
    known = cache.find(memories)
    unknown = [memory for memory in memories if memory.memory_id not in known]

    def read() -> tuple[list[FloatArray], list[Words | None]]:
        codes = services.store.load_codes(unknown)
        texts = services.store.passage_texts(unknown)
        return codes, [None if text is None else words_of(text) for text in texts]

    if unknown:
        codes, words = await services.read(read)
        slots = await services.engine.slot_vectors(codes)
        seen = [Candidate(*each) for each in zip(slots, words, strict=True)]
        cache.keep(unknown, seen)
        known |= {memory.memory_id: each for memory, each in zip(unknown, seen, strict=True)}
    return [known[memory.memory_id] for memory in memories]


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


def _load(
    store: MemoryStore,
    hits: Sequence[Hit],
    margin: float | None,
    watch: Stopwatch,
    *,
    as_text: bool,
) -> Context:
    """``hits``: K, best first."""
    read = near_the_best([hit.score for hit in hits], margin)
    with watch.stage("load"):
        return (_load_texts if as_text else _load_codes)(store, hits, read)


def _load_codes(store: MemoryStore, hits: Sequence[Hit], read: int) -> Context:
    """``read``: how many of the hits, from the first, the LLM is given."""
    return Context(hits, codes=store.load_codes([hit.memory for hit in hits[:read]]))


def _load_texts(store: MemoryStore, hits: Sequence[Hit], read: int) -> Context:
    texts = []
    memories = [hit.memory for hit in hits[:read]]
    for memory, text in zip(memories, store.passage_texts(memories), strict=True):
        if text is None:
            raise ApiError(
                409,
                "text_not_kept",
                f"the text of document {memory.document_id} was not kept (keep_text=false): "
                'ask with context "memory", or write it again with its text kept',
                param="context",
            )
        texts.append(text)
    return Context(hits, texts=texts)
