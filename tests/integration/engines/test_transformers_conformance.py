"""The transformers engine, with the real reading model of a tiny LLM, against the common suites."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from paramem.settings import Settings
from server.engine.model_engine import ModelEngine
from server.engine.scheduler import Scheduler
from server.engine.transformers_engine import TransformersEngine
from tests.integration.engines.conformance import GeneratorConformance
from tests.integration.engines.recovery import RecoveryConformance


class TestTransformersEngine(GeneratorConformance, RecoveryConformance):
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

    def kill(self, engine: ModelEngine) -> None:
        scheduler = engine._keeper.core
        assert isinstance(scheduler, Scheduler)
        thread_id = ctypes.c_ulong(scheduler._thread.ident or 0)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(thread_id, ctypes.py_object(SystemExit))
        with scheduler._changed:
            scheduler._changed.notify()  # one that waits is not interrupted
