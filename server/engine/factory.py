"""Which engine the settings ask for."""

from __future__ import annotations

from paramem.settings import EngineKind, Settings
from server.engine.dummy import DummyEngine
from server.engine.generator import Generator


def build_generator(settings: Settings) -> Generator:
    """The engine, not started. The one with a model is imported only when it is wanted."""
    if settings.engine is EngineKind.DUMMY:
        return DummyEngine(settings)
    if settings.engine is EngineKind.VLLM:
        from server.engine.vllm_engine import VllmEngine

        return VllmEngine(settings)
    from server.engine.transformers_engine import TransformersEngine

    return TransformersEngine(settings)
