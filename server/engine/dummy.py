"""An engine without a model: deterministic answers from hashes, in microseconds.

The answer depends on the query and on every bit of the codes (or texts), so that "the same answer
after a restart" is a real check of everything between the write and the read.
Symbols: K = memories, m = slots, d = code dimension.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import secrets
import time
from collections.abc import AsyncIterator, Sequence

import numpy as np
import xxhash

from memory_model.hashing import DUMMY_FINGERPRINT, WORD, hash_words
from memory_store.records import CodeFormat, FloatArray, HalfArray, MemorySpec
from memory_store.slot_quantiser import SlotQuantiser
from paramem.settings import UNTRAINED_SLOTS, Settings
from server.engine.generator import (
    EngineInfo,
    EngineNotReadyError,
    GenerationChunk,
    GenerationRequest,
    PromptTooLongError,
    QueryReading,
    SelectionUnavailableError,
)

SELECTIONS = ("router", "cosine", "attention")
CONTEXT_TOKENS = 4096
MIN_WORDS, MAX_WORDS = 8, 40
ONSETS = ("am", "be", "cor", "del", "em", "fjo", "gro", "har", "is", "ju", "kel", "la")
ENDINGS = ("ber", "dar", "dine", "go", "lant", "mar", "nor", "per", "rin", "sel", "tas", "vel")


class DummyEngine:
    """A ``Generator`` for tests and for trying the service without a model."""

    def __init__(self, settings: Settings, *, token_delay_s: float = 0.0) -> None:
        self._token_delay_s = token_delay_s
        self._info = EngineInfo(
            model="dummy",
            spec=MemorySpec(
                DUMMY_FINGERPRINT,
                settings.slots or UNTRAINED_SLOTS,
                settings.z_dim,
                CodeFormat(settings.code_format),
            ),
            dtype="float32",
            device="cpu",
            context_tokens=CONTEXT_TOKENS,
            selections=SELECTIONS,
            router_weight=0.0,
        )
        self._slots = asyncio.Semaphore(settings.max_batch_size)
        self._started = False
        self._running = 0
        self._waiting = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def start(self) -> None:
        self._started = True

    async def stop(self) -> None:
        self._started = False
        await self._idle.wait()

    @property
    def ready(self) -> bool:
        return self._started

    @property
    def lost(self) -> bool:
        return False

    @property
    def info(self) -> EngineInfo:
        if not self._started:
            raise EngineNotReadyError("the dummy engine is not started; try again shortly")
        return self._info

    @property
    def quantiser(self) -> SlotQuantiser | None:
        return None

    async def embed_query(self, query: str, selection: str) -> FloatArray:
        info = self.info
        if selection not in SELECTIONS:
            raise SelectionUnavailableError(
                f"selection {selection} is not available; choose one of: {', '.join(SELECTIONS)}"
            )
        vector = hash_words(query, info.spec.z_dim)  # (d,)
        if not vector.any():
            vector[0] = 1.0  # a query of punctuation only still needs unit norm
        return vector

    async def read_query(self, query: str) -> QueryReading:
        """One vector: the best slot decides, words that stand together count for more."""
        return QueryReading(hash_words(query, self.info.spec.z_dim)[None], {})  # (1, d)

    async def slot_vectors(self, codes: Sequence[FloatArray]) -> list[HalfArray]:
        return [code.astype(np.float16) for code in codes]

    async def generate(self, request: GenerationRequest) -> AsyncIterator[GenerationChunk]:
        queued = time.perf_counter()
        prompt_tokens, memory_slots = self._prompt(request)
        words = _words(request)
        said = itertools.cycle(words) if request.ignore_eos else words
        produced = list(itertools.islice(said, request.max_new_tokens))
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        self._running += 1
        self._idle.clear()
        try:
            started = time.perf_counter()
            for position, word in enumerate(produced):
                await asyncio.sleep(self._token_delay_s)
                yield GenerationChunk(text=word if position == 0 else f" {word}")
            yield GenerationChunk(
                text="",
                finish_reason="length" if len(produced) == request.max_new_tokens else "stop",
                prompt_tokens=prompt_tokens,
                memory_slots=memory_slots,
                completion_tokens=len(produced),
                timings_ms={
                    "queue": 1e3 * (started - queued),
                    "expand": 0.0,
                    "prefill": 0.0,
                    "decode": 1e3 * (time.perf_counter() - started),
                },
            )
        finally:
            self._slots.release()
            self._running -= 1
            if self._running == 0:
                self._idle.set()

    def load(self) -> tuple[int, int]:
        return self._running, self._waiting

    def _prompt(self, request: GenerationRequest) -> tuple[int, int]:
        """(prompt tokens, memory slots); words stand for tokens."""
        limit = self.info.context_tokens
        memory_slots = sum(len(codes) for codes in request.codes)  # K * m
        texts = (*request.texts, request.query or "")
        prompt_tokens = memory_slots + sum(len(WORD.findall(text)) for text in texts)
        if prompt_tokens + request.max_new_tokens > limit:
            raise PromptTooLongError(
                f"{prompt_tokens} prompt tokens and {request.max_new_tokens} new ones exceed the "
                f"context of {limit}: lower top_k or max_new_tokens, or shorten the query"
            )
        return prompt_tokens, memory_slots


def _words(request: GenerationRequest) -> list[str]:
    digest = xxhash.xxh64((request.query or "").encode())
    for codes in request.codes:
        digest.update(np.ascontiguousarray(codes, dtype=np.float32).tobytes())
    for text in request.texts:
        digest.update(text.encode())
    if request.temperature > 0:
        seed = request.seed if request.seed is not None else secrets.randbits(63)
        digest.update(seed.to_bytes(8, "little"))
    drawn = random.Random(digest.intdigest())
    count = drawn.randint(MIN_WORDS, MAX_WORDS)
    onsets, endings = drawn.choices(ONSETS, k=count), drawn.choices(ENDINGS, k=count)
    return [onset + ending for onset, ending in zip(onsets, endings, strict=True)]
