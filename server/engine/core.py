"""What generates in an engine, and what can die in it: a thread, or another process."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from server.engine.generator import EngineNotReadyError, GenerationChunk, GenerationRequest


class Core(Protocol):
    """Once dead it stays dead: the keeper makes another. Used from one event loop."""

    @property
    def alive(self) -> bool:
        """Takes requests: neither stopping nor dead. Costs nothing; asked at every request."""
        ...

    @property
    def lost(self) -> bool:
        """The accelerator is gone for this process: another core would die of it, too."""
        ...

    @property
    def dtype(self) -> str:
        """What it computes in, e.g. ``bfloat16``."""
        ...

    @property
    def device(self) -> str: ...

    @property
    def context_tokens(self) -> int: ...

    def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk]:
        """As ``Generator.generate``. Requests running when it dies raise EngineNotReadyError."""
        ...

    def load(self) -> tuple[int, int]:
        """(running, waiting) requests."""
        ...

    async def stop(self) -> None:
        """Refuse new requests, finish the accepted ones, free everything. Of a dead one, free what
        it left. Idempotent."""
        ...


def died() -> EngineNotReadyError:
    """What requests are told that were running when the core died."""
    return EngineNotReadyError(
        "the engine died while it answered and is being started again: ask again"
    )
