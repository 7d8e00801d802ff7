"""One request on its way through the engine: from the waiting line to its last chunk."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field

import torch

from server.engine.detokenizer import Detokenizer
from server.engine.generator import EngineError, GenerationChunk, GenerationRequest

STOP, LENGTH = "stop", "length"


@dataclass(eq=False, slots=True)
class Answer:
    """Belongs to the engine thread, but for ``chunks``, which ``loop`` reads, and ``cancelled``,
    which any thread may set.
    """

    request: GenerationRequest
    detokenizer: Detokenizer
    loop: asyncio.AbstractEventLoop
    chunks: asyncio.Queue[GenerationChunk | EngineError] = field(default_factory=asyncio.Queue)
    cancelled: bool = False
    prompt: torch.Tensor | None = None  # (T, h), from expansion to prefill
    prompt_tokens: int = 0
    completion_tokens: int = 0
    last_token: int = -1
    finished: bool = False
    timings_ms: dict[str, float] = field(default_factory=dict)
    _random: torch.Generator | None = None
    _mark: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        if self.request.temperature > 0:
            self._random = torch.Generator()
            if self.request.seed is None:
                self._random.seed()
            else:
                self._random.manual_seed(self.request.seed)

    @property
    def gone(self) -> bool:
        """Whether its row may be dropped: answered to the end, failed, or no longer wanted."""
        return self.finished or self.cancelled

    def lap(self, stage: str) -> None:
        """Book the time since the last lap under ``stage``."""
        now = time.perf_counter()
        spent_ms = 1000 * (now - self._mark)
        self.timings_ms[stage] = self.timings_ms.get(stage, 0.0) + spent_ms
        self._mark = now

    def sample(self, logits: torch.Tensor) -> int:
        """Draw a token from (V,) logits; only for a temperature above 0.

        Each request draws from its own generator, so its answer does not depend on its neighbours.
        """
        scaled = logits.float().cpu() / self.request.temperature
        draw = torch.multinomial(scaled.softmax(-1), 1, generator=self._random)
        return int(draw.item())

    def accept(self, token: int, stop_token_ids: frozenset[int]) -> None:
        """Append a token and send what text it completes; the last one ends the answer."""
        self.last_token = token
        self.completion_tokens += 1
        if token in stop_token_ids:
            self._finish("", STOP)
            return
        text = self.detokenizer.push(token)
        if self.completion_tokens >= self.request.max_new_tokens:
            self._finish(text, LENGTH)
        elif text:
            self._send(GenerationChunk(text))

    def fail(self, error: EngineError) -> None:
        self.finished = True
        self._send(error)

    def _finish(self, text: str, reason: str) -> None:
        self.lap("decode" if self.completion_tokens > 1 else "prefill")
        self.timings_ms.setdefault("decode", 0.0)
        self.finished = True
        self._send(
            GenerationChunk(
                text=text + self.detokenizer.flush(),
                finish_reason=reason,
                prompt_tokens=self.prompt_tokens,
                memory_slots=sum(len(code) for code in self.request.codes),
                completion_tokens=self.completion_tokens,
                timings_ms=self.timings_ms,
            )
        )

    def _send(self, item: GenerationChunk | EngineError) -> None:
        # RuntimeError: the loop is closed, so nobody is left to read.
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.chunks.put_nowait, item)
