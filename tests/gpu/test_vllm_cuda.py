"""vLLM on CUDA: what its CPU build cannot show. The rest: integration/engines/test_real_vllm.py."""

from __future__ import annotations

import asyncio
import importlib.util
import signal
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from paramem.settings import Settings
from server.engine.generator import GenerationRequest
from server.engine.vllm_engine import VllmEngine
from tests.integration.engines.tiny_reading import answer
from tests.tiny import save_tiny_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vllm installed"),
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore"),  # vLLM's own, and those of what it imports
]


def test_a_killed_engine_core_gives_its_memory_back_and_the_next_answers_alike(
    tmp_path: Path,
) -> None:
    """In bf16, compiled, with most of the card: the second core fits only if the first is gone."""
    settings = Settings(
        home=tmp_path / "home",
        cache=tmp_path / "cache",
        engine="vllm",
        model=str(save_tiny_model(tmp_path / "model", hidden=256)),
        dtype="bfloat16",
        slots=64,
        z_dim=32,
        vllm_memory_fraction=0.7,
    )
    random = np.random.default_rng(0)
    codes = [random.normal(size=(64, 32)).astype(np.float32) for _ in range(3)]
    wishes = [GenerationRequest("dog", 12, codes=codes[:count]) for count in (1, 2, 3)]

    async def main() -> None:
        engine = VllmEngine(settings)
        await engine.start()
        try:
            assert (engine.info.device, engine.info.dtype) == ("cuda", "bfloat16")
            before = [(await answer(engine, wish))[0] for wish in wishes]
            assert len(set(before)) == len(before)
            for process in psutil.Process().children(recursive=True):
                if "EngineCore" in process.name() or "EngineCore" in " ".join(process.cmdline()):
                    process.send_signal(signal.SIGKILL)
            while engine.ready:
                await asyncio.sleep(0.01)
            while not engine.ready:
                await asyncio.sleep(0.1)
            assert [(await answer(engine, wish))[0] for wish in wishes] == before
        finally:
            await engine.stop()

    asyncio.run(asyncio.wait_for(main(), 800))
