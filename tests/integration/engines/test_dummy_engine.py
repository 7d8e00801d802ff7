"""The dummy engine against the suite of every engine."""

from __future__ import annotations

from paramem.settings import load_settings
from server.engine.dummy import DummyEngine
from tests.integration.engines.conformance import GeneratorConformance


class TestDummyEngine(GeneratorConformance):
    def make_engine(self) -> DummyEngine:
        return DummyEngine(load_settings(engine="dummy", slots=4, z_dim=64))
