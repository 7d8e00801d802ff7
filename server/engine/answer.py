"""One request on its way through the scheduler: from the waiting line to its last chunk."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field

import torch

from server.engine.generator import EngineError, GenerationChunk
from server.engine.transcript import Transcript


@dataclass(eq=False, slots=True)
class Answer:
    """Belongs to the engine thread, but for ``chunks``, which ``loop`` reads, and ``cancelled``,
    which any thread may set.
    """

    transcript: Transcript
    loop: asyncio.AbstractEventLoop
    chunks: asyncio.Queue[GenerationChunk | EngineError] = field(default_factory=asyncio.Queue)
    cancelled: bool = False
    prompt: torch.Tensor | None = None  # (T, h), from expansion to prefill
    last_token: int = -1
    failed: bool = False
    _random: torch.Generator | None = None

    def __post_init__(self) -> None:
        request = self.transcript.request
        if request.temperature > 0:
            self._random = torch.Generator()
            if request.seed is None:
                self._random.seed()
            else:
                self._random.manual_seed(request.seed)

    @property
    def gone(self) -> bool:
        """Whether its row may be dropped: answered to the end, failed, or no longer wanted."""
        return self.transcript.finished or self.failed or self.cancelled

    def sample(self, logits: torch.Tensor) -> int:
        """Draw a token from (V,) logits; only for a temperature above 0.

        Each request draws from its own generator, so its answer does not depend on its neighbours.
        """
        scaled = logits.float().cpu() / self.transcript.request.temperature
        draw = torch.multinomial(scaled.softmax(-1), 1, generator=self._random)
        return int(draw.item())

    def accept(self, token: int, stop_token_ids: frozenset[int]) -> None:
        """Append a token and send what text it completes; the last one ends the answer."""
        self.last_token = token
        chunk = self.transcript.accept(token, stop_token_ids)
        if chunk is not None:
            self._send(chunk)

    def fail(self, error: EngineError) -> None:
        self.failed = True
        self._send(error)

    def _send(self, item: GenerationChunk | EngineError) -> None:
        # RuntimeError: the loop is closed, so nobody is left to read.
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.chunks.put_nowait, item)
