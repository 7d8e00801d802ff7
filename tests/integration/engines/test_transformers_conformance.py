"""The transformers engine, with the real reading model of a tiny LLM, against the common suite."""

from __future__ import annotations

from pathlib import Path

import pytest

from paramem.settings import Settings
from server.engine.transformers_engine import TransformersEngine
from tests.integration.engines.conformance import GeneratorConformance


class TestTransformersEngine(GeneratorConformance):
    @pytest.fixture(autouse=True)
    def _places(self, tiny_model: Path, tmp_path: Path) -> None:
        self.settings = Settings(
            home=tmp_path / "home",
            cache=tmp_path / "cache",
            model=str(tiny_model),
            device="cpu",
            slots=4,
            z_dim=32,
        )

    def make_engine(self) -> TransformersEngine:
        return TransformersEngine(self.settings)
