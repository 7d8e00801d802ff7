"""An answer in the making: tokens in, chunks out, the last one with the totals."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from server.engine.detokenizer import Detokenizer
from server.engine.generator import GenerationChunk, GenerationRequest

STOP, LENGTH = "stop", "length"


@dataclass(eq=False, slots=True)
class Transcript:
    """Used by one thread (or task) at a time."""

    request: GenerationRequest
    detokenizer: Detokenizer
    prompt_tokens: int = 0
    completion_tokens: int = 0
    finished: bool = False
    timings_ms: dict[str, float] = field(default_factory=dict)
    _mark: float = field(default_factory=time.perf_counter)

    @property
    def most_positions(self) -> int:
        """Of its row at the end."""
        return self.prompt_tokens + self.request.max_new_tokens

    def lap(self, stage: str) -> None:
        """Book the time since the last lap under ``stage``."""
        now = time.perf_counter()
        spent_ms = 1000 * (now - self._mark)
        self.timings_ms[stage] = self.timings_ms.get(stage, 0.0) + spent_ms
        self._mark = now

    def accept(self, token: int, stop_token_ids: frozenset[int]) -> GenerationChunk | None:
        """Append a token. Returns: what text it completes, if any; the last chunk if it ends."""
        self.completion_tokens += 1
        if self.completion_tokens == 1:
            self.lap("prefill")
        if token in stop_token_ids and not self.request.ignore_eos:
            return self._last("", STOP)
        text = self.detokenizer.push(token)
        if self.completion_tokens >= self.request.max_new_tokens:
            return self._last(text, LENGTH)
        return GenerationChunk(text) if text else None

    def _last(self, text: str, reason: str) -> GenerationChunk:
        self.lap("decode")
        self.finished = True
        return GenerationChunk(
            text=text + self.detokenizer.flush(),
            finish_reason=reason,
            prompt_tokens=self.prompt_tokens,
            memory_slots=sum(len(code) for code in self.request.codes),
            completion_tokens=self.completion_tokens,
            timings_ms=self.timings_ms,
        )
