"""The vLLM engine over a fake of vLLM's surface, against the common suites."""

from __future__ import annotations

from pathlib import Path

import pytest

from paramem.settings import Settings
from server.engine.model_engine import ModelEngine
from server.engine.vllm_engine import VllmEngine
from tests.integration.engines.conformance import GeneratorConformance
from tests.integration.engines.fake_vllm import FakeVllm
from tests.integration.engines.recovery import RecoveryConformance


class TestVllmEngine(GeneratorConformance, RecoveryConformance):
    @pytest.fixture(autouse=True)
    def _places(self, tiny_model: Path, tmp_path: Path) -> None:
        self.vllm = FakeVllm()
        self.settings = Settings(
            home=tmp_path / "home",
            cache=tmp_path / "cache",
            engine="vllm",
            model=str(tiny_model),
            slots=4,
            z_dim=32,
        )

    def make_engine(self) -> VllmEngine:
        return VllmEngine(self.settings, start=self.vllm)

    def kill(self, engine: ModelEngine) -> None:
        self.vllm.started[-1].kill()
