"""vLLM in a process of its own (its engine core), fed with prompts as embeddings.

Only ``max_tokens``, ``temperature``, ``seed`` and stop token ids reach its sampler: penalties with
``prompt_embeds`` kill the engine core (vllm#57719), and nothing else is needed. There is no LoRA in
it either: the reader's is merged into the weights that it loads.

Symbols: T = prompt positions, h = hidden size.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import structlog
import torch

from paramem.settings import Settings
from server.engine.core import died
from server.engine.detokenizer import Detokenizer
from server.engine.generator import (
    EngineError,
    EngineNotReadyError,
    GenerationChunk,
    GenerationRequest,
)
from server.engine.prompt import FAILED, make_prompt
from server.engine.transcript import Transcript

if TYPE_CHECKING:
    from memory_model.runtime import ReadingModel

log = structlog.get_logger(__name__)


class Sampling(Protocol):
    """Makes vLLM's sampling parameters, of these four fields and no others."""

    def __call__(
        self, *, max_tokens: int, temperature: float, seed: int | None, stop_token_ids: list[int]
    ) -> Any: ...


class VllmCore:
    """Implements ``Core``."""

    def __init__(
        self,
        model: ReadingModel,
        llm: Any,
        *,
        sampling: Sampling,
        dead_error: type[Exception],
        max_batch_size: int,
    ) -> None:
        """``llm``: vLLM's ``AsyncLLM``; ``dead_error``: what it raises when its core is dead."""
        self._model = model
        self._llm = llm
        self._sampling = sampling
        self._dead_error = dead_error
        self._max_batch_size = max_batch_size
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._stopping = False
        self._dead = False
        self._prompts = ThreadPoolExecutor(1, thread_name_prefix="prompts")

    @property
    def alive(self) -> bool:
        return not (self._stopping or self._died)

    @property
    def lost(self) -> bool:
        """The device is that of vLLM's own process, and the next one gets its own."""
        return False

    @property
    def dtype(self) -> str:
        return str(self._llm.model_config.dtype).removeprefix("torch.")

    @property
    def device(self) -> str:
        return str(self._llm.vllm_config.device_config.device_type)

    @property
    def context_tokens(self) -> int:
        """The model's, or less if the memory for keys and values does not hold as much."""
        return int(self._llm.model_config.max_model_len)

    def load(self) -> tuple[int, int]:
        """vLLM does not say which of them run: as many as may."""
        running = min(self._in_flight, self._max_batch_size)
        return running, self._in_flight - running

    @property
    def _died(self) -> bool:
        return self._dead or bool(self._llm.errored)

    async def stop(self) -> None:
        self._stopping = True
        if not self._died:
            await self._idle.wait()
        self._prompts.shutdown(wait=False)  # those in it are told that it died by vLLM itself
        await asyncio.to_thread(self._llm.shutdown)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk]:
        """Time in vLLM's own waiting line counts as ``prefill``."""
        if not self.alive:
            raise EngineNotReadyError("the engine has stopped: try another server, or later")
        transcript = Transcript(request, Detokenizer(self._model.decode))
        self._in_flight += 1
        self._idle.clear()
        try:
            prompt = await asyncio.get_running_loop().run_in_executor(
                self._prompts, self._prompt, transcript
            )
            async with aclosing(self._tokens(request, prompt)) as tokens:
                async for token in tokens:
                    chunk = transcript.accept(token, self._model.stop_token_ids)
                    if chunk is not None:
                        yield chunk
            if not transcript.finished:
                log.error("vllm_ended_early", tokens=transcript.completion_tokens)
                raise EngineError(FAILED)
        finally:
            self._in_flight -= 1
            if self._in_flight == 0:
                self._idle.set()

    def _prompt(self, transcript: Transcript) -> torch.Tensor:
        """Returns: (T, h) on the CPU, in vLLM's dtype."""
        transcript.lap("queue")
        prompt = make_prompt(self._model, transcript.request, self.context_tokens)
        transcript.prompt_tokens = len(prompt)
        prompt = prompt.to("cpu", self._llm.model_config.dtype)
        transcript.lap("expand")
        return prompt

    async def _tokens(
        self, request: GenerationRequest, prompt: torch.Tensor
    ) -> AsyncGenerator[int]:
        """vLLM's tokens; closing it before the end aborts the request there."""
        outputs = self._llm.generate(
            {"type": "embeds", "prompt_embeds": prompt},
            self._sampling(
                max_tokens=request.max_new_tokens,
                temperature=request.temperature,
                seed=request.seed,
                stop_token_ids=[] if request.ignore_eos else sorted(self._model.stop_token_ids),
            ),
            uuid.uuid4().hex,
        )
        try:
            async with aclosing(outputs):
                async for output in outputs:
                    for token in output.outputs[0].token_ids:
                        yield token
        except self._dead_error as error:
            self._dead = True  # it may tell its requests before it tells itself
            raise died() from error
        except Exception as error:
            log.exception("vllm_failed")
            raise (EngineError(FAILED) if self.alive else died()) from error


def start_vllm(
    directory: Path, dtype: torch.dtype, settings: Settings, **options: Any
) -> tuple[Any, Sampling, type[Exception]]:
    """Start vLLM's engine core on the weights in ``directory``; takes half a minute and more.

    Args:
        options: further ``AsyncEngineArgs``.

    Returns: the ``AsyncLLM``, what makes its sampling parameters, what it raises when dead.
    """
    # Before vllm is imported. A fork would take over the locks of this process's threads.
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")  # where ours goes
    os.environ.setdefault("VLLM_CACHE_ROOT", str(settings.cache / "vllm"))  # what it compiles
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.engine.exceptions import EngineDeadError

    arguments = AsyncEngineArgs(
        model=str(directory),
        dtype=str(dtype).removeprefix("torch."),
        enable_prompt_embeds=True,
        enable_prefix_caching=True,  # blocks are known by a hash of their embeddings
        skip_tokenizer_init=True,
        max_model_len=-1,  # the model's own, or what fits
        max_num_seqs=settings.max_batch_size,
        gpu_memory_utilization=settings.vllm_memory_fraction,
        disable_log_stats=True,
        **options,
    )
    return AsyncLLM.from_engine_args(arguments), sampling_params, EngineDeadError


def sampling_params(
    *, max_tokens: int, temperature: float, seed: int | None, stop_token_ids: list[int]
) -> Any:
    """vLLM's ``SamplingParams``, streaming token ids: the text is made here."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        max_tokens=max_tokens,
        temperature=temperature,
        seed=seed,
        stop_token_ids=stop_token_ids,
        ignore_eos=True,  # it is among the stop tokens
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )
