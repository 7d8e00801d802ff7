"""The ``Generator`` seam: the LLM side of the read path.

A generator turns a query into the selector's vector, and (memories, query) into a token stream.
Symbols: K = memories, m = slots, d = code dimension, T = query tokens, r = width of the re-ranker.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from memory_store.records import FloatArray, HalfArray, MemorySpec
from memory_store.slot_quantiser import SlotQuantiser

ATTENTION = "attention"
"""The selection that re-ranks the router's candidates."""
ROUTER = "router"
BM25 = "bm25"
HYBRID = "hybrid"
LEXICAL = (BM25, HYBRID)
"""Selections that no bundle is needed for: by the words of the kept texts, alone or fused with the
router's. The server makes them itself."""


class EngineError(Exception):
    """The engine cannot serve; ``code`` goes over the wire."""

    code = "engine_error"


class EngineNotReadyError(EngineError):
    """Loading, draining or dead: try again after ``retry_after_s``."""

    code = "engine_not_ready"

    def __init__(self, message: str, *, retry_after_s: float = 2.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class PromptTooLongError(EngineError):
    """Memories + query + answer do not fit the model's context; the message gives the limit."""

    code = "context_length_exceeded"


class SelectionUnavailableError(EngineError):
    """This engine's bundle cannot select this way; the message lists those it can."""

    code = "selection_unavailable"


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What ``/version`` and the collections need to know of a loaded engine."""

    model: str
    spec: MemorySpec  # fingerprint, m, d of the loaded bundle
    dtype: str
    device: str
    context_tokens: int
    selections: tuple[str, ...]  # the first is what a query gets that names none
    score_margin: float | None = None  # of memories read after attention; None = all selected
    coarse_slots: int | None = None  # of memories after the best, unless a query says; None = all
    router_weight: float = 1.0  # of the router's score beside late interaction


@dataclass(frozen=True, slots=True)
class QueryReading:
    """What a re-ranker sees of a query."""

    vectors: FloatArray  # (T, r), of its tokens, their weights in them
    words: Mapping[int, float]  # what each word counts, by hash (memory_model.shared_words)


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What one answer is generated from.

    Exactly one of ``codes`` and ``texts`` is non-empty, or neither (closed book).
    With ``query`` None the codes are decoded back into the passage they remember
    (reconstruction: no template around them).
    """

    query: str | None
    max_new_tokens: int
    codes: Sequence[FloatArray] = ()  # K of (m_i, d), best first
    texts: Sequence[str] = ()  # K passages as text: the same LLM with text in the prompt
    temperature: float = 0.0  # 0 = greedy
    seed: int | None = None
    ignore_eos: bool = False  # go on to max_new_tokens


@dataclass(slots=True)
class GenerationChunk:
    """A piece of the answer. The last chunk carries ``finish_reason`` and the totals."""

    text: str
    finish_reason: str | None = None  # stop | length
    prompt_tokens: int = 0  # positions of the prompt, memory slots counted as one each
    memory_slots: int = 0
    completion_tokens: int = 0
    timings_ms: dict[str, float] = field(default_factory=dict)  # queue, expand, prefill, decode


class Generator(Protocol):
    """An engine. ``start`` may take minutes; the server answers 503 until it returns."""

    async def start(self) -> None: ...

    async def stop(self) -> None:
        """Finish running requests, then release the model. Idempotent."""
        ...

    @property
    def info(self) -> EngineInfo:
        """Raises: EngineNotReadyError before ``start`` has returned or after the engine died."""
        ...

    @property
    def quantiser(self) -> SlotQuantiser | None:
        """The bundle's: what rq codes are read with; None if it has none."""
        ...

    @property
    def ready(self) -> bool: ...

    @property
    def lost(self) -> bool:
        """It will not be ready again in this process."""
        ...

    async def embed_query(self, query: str, selection: str) -> FloatArray:
        """The vector the index is searched with. Returns: (d,) unit norm.

        Raises: SelectionUnavailableError, EngineNotReadyError
        """
        ...

    async def read_query(self, query: str) -> QueryReading:
        """What candidates are ranked by.

        Raises: SelectionUnavailableError if ``info.selections`` lacks "attention",
            EngineNotReadyError
        """
        ...

    async def slot_vectors(self, codes: Sequence[FloatArray]) -> list[HalfArray]:
        """What late interaction compares a query's vectors with, the same for every query.

        Args:
            codes: C of (m, d), at least one, all of one m.

        Returns: C of (m, r) float16.
        Raises: as ``read_query``.
        """
        ...

    def generate(self, request: GenerationRequest) -> AsyncIterator[GenerationChunk]:
        """Stream the answer. Closing the iterator frees the request's slot within one step.

        Raises: PromptTooLongError before the first chunk, EngineNotReadyError.
        """
        ...

    def load(self) -> tuple[int, int]:
        """(running, waiting) requests, for metrics."""
        ...
