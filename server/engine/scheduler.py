"""The engine thread: who is prefilled next, who decodes, who leaves.

Invariant: row i of the batch belongs to ``_running[i]``. First come, first served; a request
joins between two decode steps as soon as a row is free and the cache has room until its end.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import structlog
import torch

from memory_model.device_loss import is_lost
from server.engine.answer import Answer, send
from server.engine.batch import Batch
from server.engine.cached_prefix import cached_prefix
from server.engine.core import died
from server.engine.cores import CORES, use_cores
from server.engine.detokenizer import Detokenizer
from server.engine.generator import (
    EngineError,
    EngineNotReadyError,
    GenerationChunk,
    GenerationRequest,
)
from server.engine.prompt import FAILED, make_prompt
from server.engine.sampling import NONE, Draw, next_tokens
from server.engine.transcript import Transcript

if TYPE_CHECKING:
    from memory_model.runtime import ReadingModel

log = structlog.get_logger(__name__)


def prefill_positions(device: torch.device) -> int:
    """Most positions (padding included) prefilled between two decode steps, unless one prompt alone
    has more: those who decode already should not stand still while a crowd comes in.

    A CPU is busy with one prompt: of several it computes the padding as well, and the first one
    waits for the last (LOG.md).
    """
    return 256 if device.type == "cpu" else 2048


class Scheduler:
    """Runs requests in one thread of its own. Implements ``Core``; methods are thread-safe."""

    def __init__(
        self,
        model: ReadingModel,
        *,
        max_batch_size: int,
        num_threads: int,
        most_positions: int,
        recorded: bool,
    ) -> None:
        """``num_threads``: that torch computes with here; for the others see :class:`Batch`."""
        self._model = model
        self._num_threads = num_threads
        self._max_batch_size = max_batch_size
        self._prefill_positions = prefill_positions(model.device)
        self._new_batch = partial(
            Batch,
            model.lm,
            recorded=recorded,
            most_positions=most_positions,
            prefix=cached_prefix(model),
        )
        self._batch = self._new_batch()
        if recorded:
            with torch.inference_mode():
                self._batch.record(max_batch_size)
        self._running: list[Answer] = []
        self._waiting: deque[Answer] = deque()
        self._stopping = False
        self._changed = threading.Condition()  # guards _waiting and _stopping
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Takes requests: neither stopping nor dead."""
        return self._thread.is_alive() and not self._stopping

    @property
    def lost(self) -> bool:
        return is_lost(self._model.device)

    @property
    def dtype(self) -> str:
        return str(self._model.dtype).removeprefix("torch.")

    @property
    def device(self) -> str:
        return str(self._model.device)

    @property
    def context_tokens(self) -> int:
        return self._model.context_tokens

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk]:
        answer = self._submit(request, asyncio.get_running_loop())
        try:
            while True:
                chunk = await answer.next_chunk()
                yield chunk
                if chunk.finish_reason is not None:
                    return
        finally:
            self._cancel(answer)

    def _submit(self, request: GenerationRequest, loop: asyncio.AbstractEventLoop) -> Answer:
        """Queue a request; ``loop`` gets its chunks. Raises: EngineNotReadyError."""
        transcript = Transcript(request, Detokenizer(self._model.decode))
        draw = None
        if request.temperature > 0:
            draw = Draw(request.temperature, request.seed)
        answer = Answer(transcript, loop, draw)
        with self._changed:
            if not self.alive:
                raise EngineNotReadyError("the engine has stopped: try another server, or later")
            self._waiting.append(answer)
            self._changed.notify()
        return answer

    def _cancel(self, answer: Answer) -> None:
        """Forget a request: its row is free at the next step. No-op for a finished one."""
        answer.cancelled = True
        with self._changed:
            if answer in self._waiting:
                self._waiting.remove(answer)

    def load(self) -> tuple[int, int]:
        """(running, waiting) requests."""
        return sum(not answer.gone for answer in self._running), len(self._waiting)

    async def stop(self) -> None:
        """Refuse new requests, finish the accepted ones, end the thread. Idempotent."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        use_cores(self._num_threads)
        try:
            with torch.inference_mode():
                while self._wait_for_work():
                    self._turn()
        except BaseException:
            log.exception("engine_died")
            with self._changed:
                self._stopping = True
                orphans = [*self._running, *self._waiting]
                self._waiting.clear()
            for answer in orphans:
                answer.fail(died())

    def _wait_for_work(self) -> bool:
        """Returns: False when stopping and all work is done."""
        with self._changed:
            self._changed.wait_for(lambda: self._running or self._waiting or self._stopping)
            return bool(self._running or self._waiting)

    def _turn(self) -> None:
        self._leave()
        newcomers = self._next_in_line()
        with CORES.computing(self._num_threads):
            if newcomers:
                self._prefill(newcomers)
                if self._batch.mixes:
                    return
                self._leave()
            if self._running:
                self._decode()

    def _leave(self) -> None:
        stay = [row for row, answer in enumerate(self._running) if not answer.gone]
        if len(stay) < len(self._running):
            self._batch.keep(stay)
            self._running = [self._running[row] for row in stay]

    def _next_in_line(self) -> list[Answer]:
        newcomers: list[Answer] = []
        while len(self._running) + len(newcomers) < self._max_batch_size:
            with self._changed:
                if not self._waiting:
                    break
                answer = self._waiting[0]
            if answer.prompt is None and not self._expand(answer):
                self._drop(answer)
                continue
            lengths = [other.transcript.prompt_tokens for other in (*newcomers, answer)]
            if newcomers and self._batch.prefilled(lengths) > self._prefill_positions:
                break
            if not self._fits([*self._running, *newcomers, answer]):
                break  # whoever comes after it waits too, or it would wait for ever
            self._drop(answer)
            newcomers.append(answer)
        return newcomers

    def _fits(self, answers: Sequence[Answer]) -> bool:
        """Whether they can all come to their ends together."""
        longest = max(answer.transcript.most_positions for answer in answers)
        return self._batch.fits(len(answers), longest)

    def _drop(self, answer: Answer) -> None:
        """Take it out of the waiting line, where a cancellation may have been faster."""
        with self._changed:
            if answer in self._waiting:
                self._waiting.remove(answer)

    def _expand(self, answer: Answer) -> bool:
        """Make the prompt. Returns: False when the request failed, which it has been told."""
        answer.transcript.lap("queue")
        try:
            answer.prompt = make_prompt(
                self._model, answer.transcript.request, self._model.context_tokens
            )
        except EngineError as error:
            answer.fail(error)
            return False
        answer.transcript.prompt_tokens = len(answer.prompt)
        answer.transcript.lap("expand")
        return True

    def _prefill(self, newcomers: Sequence[Answer]) -> None:
        """Where the batch mixes, those who run go on in the same forward."""
        prompts = []
        for answer in newcomers:
            assert answer.prompt is not None
            prompts.append(answer.prompt)
            answer.prompt = None
            answer.transcript.lap("queue")
        going_on = self._running if self._batch.mixes else []
        try:
            logits = self._batch.join(prompts, [answer.last_token for answer in going_on])
        except Exception:
            self._fail(newcomers, "prefill_failed")
            return
        served = [*going_on, *newcomers]
        self._running.extend(newcomers)
        self._deliver(served, logits)

    def _decode(self) -> None:
        try:
            logits = self._batch.step([answer.last_token for answer in self._running])
        except Exception:
            self._fail(self._running, "decode_failed")
            self._running = []
            self._batch = self._new_batch()  # the old one's cache may be half written
            return
        self._deliver(self._running, logits)

    def _deliver(self, answers: Sequence[Answer], logits: torch.Tensor) -> None:
        """Give each answer the token of its row of ``logits`` (B, V)."""
        tokens = next_tokens(logits, [answer.draw for answer in answers])
        chunks: list[tuple[Answer, GenerationChunk]] = []
        for answer, token in zip(answers, tokens, strict=True):
            try:
                if token == NONE:
                    raise ArithmeticError("logits that are not numbers")
                if chunk := answer.accept(token, self._model.stop_token_ids):
                    chunks.append((answer, chunk))
            except Exception:
                self._fail([answer], "deliver_failed")
        send(chunks)

    def _fail(self, answers: Sequence[Answer], event: str) -> None:
        """For use in an exception handler; the exception goes to the log, not to the client."""
        log.exception(event, requests=len(answers))
        for answer in answers:
            answer.fail(EngineError(FAILED))
