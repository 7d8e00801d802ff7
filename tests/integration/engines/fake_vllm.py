"""vLLM's ``AsyncLLM`` as the engine uses it, over plain ``generate(inputs_embeds=…)``.

It is as strict as the original where that matters: pure embeddings on the CPU in the model's
dtype, nothing served once dead, four sampling fields.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from paramem.settings import Settings
from server.engine.vllm_core import Sampling


class FakeEngineDeadError(Exception):
    pass


@dataclass(frozen=True)
class FakeSamplingParams:
    max_tokens: int
    temperature: float
    seed: int | None
    stop_token_ids: list[int]


class FakeAsyncLLM:
    """One forward pass at a time, deltas of one and two tokens by turns."""

    def __init__(self, directory: Path, dtype: torch.dtype, settings: Settings) -> None:
        self.lm = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype).eval()
        self.model_config = SimpleNamespace(
            dtype=dtype, max_model_len=self.lm.config.max_position_embeddings
        )
        self.vllm_config = SimpleNamespace(device_config=SimpleNamespace(device_type="cpu"))
        self.errored = False
        self.shut_down = False
        self.running: set[str] = set()
        self.aborted: list[str] = []
        self.prompts: list[torch.Tensor] = []
        self._computing = threading.Lock()
        self._places = asyncio.Semaphore(settings.max_batch_size)

    async def generate(
        self, prompt: dict[str, Any], sampling_params: FakeSamplingParams, request_id: str
    ) -> AsyncGenerator[Any]:
        self._refuse_if_dead()
        assert set(prompt) == {"type", "prompt_embeds"}
        assert prompt["type"] == "embeds"
        embeds: torch.Tensor = prompt["prompt_embeds"]  # (T, h)
        assert (embeds.ndim, embeds.dtype, embeds.device.type) == (
            2,
            self.model_config.dtype,
            "cpu",
        )
        self.prompts.append(embeds)
        self.running.add(request_id)
        try:
            async with self._places:
                tokens = await asyncio.to_thread(self._generate, embeds, sampling_params)
                for delta in deltas(tokens):
                    self._refuse_if_dead()
                    yield SimpleNamespace(outputs=[SimpleNamespace(token_ids=delta)])
                    await asyncio.sleep(0)
        except (asyncio.CancelledError, GeneratorExit):
            self.aborted.append(request_id)
            raise
        finally:
            self.running.discard(request_id)

    def kill(self) -> None:
        self.errored = True

    def shutdown(self) -> None:
        self.errored = self.shut_down = True

    def _refuse_if_dead(self) -> None:
        if self.errored:
            raise FakeEngineDeadError

    def _generate(self, embeds: torch.Tensor, sampling: FakeSamplingParams) -> list[int]:
        with self._computing, torch.random.fork_rng(), torch.inference_mode():
            if sampling.seed is not None:
                torch.manual_seed(sampling.seed)
            warm: dict[str, Any] = {"do_sample": False}
            if sampling.temperature > 0:
                warm = {"do_sample": True, "temperature": sampling.temperature, "top_k": 0}
            tokens: list[int] = self.lm.generate(
                inputs_embeds=embeds[None],
                attention_mask=torch.ones(1, len(embeds), dtype=torch.long),
                max_new_tokens=sampling.max_tokens,
                eos_token_id=sampling.stop_token_ids,
                pad_token_id=0,
                **warm,
            )[0].tolist()
        return tokens


def deltas(tokens: list[int]) -> Iterator[list[int]]:
    width = 1
    while tokens:
        yield tokens[:width]
        tokens, width = tokens[width:], 3 - width


@dataclass
class FakeVllm:
    """Starts them, in the place of ``start_vllm``; ``failures`` starts fail first."""

    started: list[FakeAsyncLLM] = field(default_factory=list)
    failures: int = 0

    def __call__(
        self, directory: Path, dtype: torch.dtype, settings: Settings
    ) -> tuple[FakeAsyncLLM, Sampling, type[Exception]]:
        if self.failures:
            self.failures -= 1
            raise RuntimeError("no memory left on the device")
        self.started.append(FakeAsyncLLM(directory, dtype, settings))
        return self.started[-1], FakeSamplingParams, FakeEngineDeadError
