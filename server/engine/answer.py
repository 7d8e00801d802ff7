"""One request on its way through the scheduler: from the waiting line to its last chunk."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from server.engine.generator import EngineError, GenerationChunk
from server.engine.sampling import Draw
from server.engine.transcript import Transcript

Chunks = asyncio.Queue[GenerationChunk | EngineError]


@dataclass(eq=False, slots=True)
class Answer:
    """Belongs to the engine thread, but for ``chunks``, which ``loop`` reads, and ``cancelled``,
    which any thread may set.
    """

    transcript: Transcript
    loop: asyncio.AbstractEventLoop
    draw: Draw | None = None  # its way to sample; None = greedy
    chunks: Chunks = field(default_factory=asyncio.Queue)
    cancelled: bool = False
    prompt: torch.Tensor | None = None  # (T, h), from expansion to prefill
    last_token: int = -1
    failed: bool = False

    @property
    def gone(self) -> bool:
        """Whether its row may be dropped: answered to the end, failed, or no longer wanted."""
        return self.transcript.finished or self.failed or self.cancelled

    def accept(self, token: int, stop_token_ids: frozenset[int]) -> GenerationChunk | None:
        """Append a token. Returns: what text it completes, to be sent; the last one ends the
        answer."""
        self.last_token = token
        return self.transcript.accept(token, stop_token_ids)

    async def next_chunk(self) -> GenerationChunk:
        """What has come since the last one, together: a loop that is behind sends longer pieces,
        not more of them. In ``loop``.

        Raises: EngineError, after what came before it.
        """
        item, texts = await self.chunks.get(), list[str]()
        while not (isinstance(item, EngineError) or item.finish_reason or self.chunks.empty()):
            texts.append(item.text)
            item = self.chunks.get_nowait()
        if not isinstance(item, EngineError):
            return replace(item, text="".join([*texts, item.text])) if texts else item
        if not texts:
            raise item
        self.chunks.put_nowait(item)  # nothing comes behind it
        return GenerationChunk("".join(texts))

    def fail(self, error: EngineError) -> None:
        self.failed = True
        send([(self, error)])


def send(items: Sequence[tuple[Answer, GenerationChunk | EngineError]]) -> None:
    """Give each answer its item, and wake each event loop once for all of its own: waking it is
    a system call, after which the engine's thread would have to wait for the interpreter."""
    by_loop = defaultdict(list)
    for answer, item in items:
        by_loop[answer.loop].append((answer.chunks, item))
    for loop, own in by_loop.items():
        # RuntimeError: the loop is closed, so nobody is left to read.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(_put, own)


def _put(items: Sequence[tuple[Chunks, GenerationChunk | EngineError]]) -> None:
    for chunks, item in items:
        chunks.put_nowait(item)
