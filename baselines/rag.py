"""The RAG endpoint: the house's server and worker with the rival's engine and writer."""

from __future__ import annotations

from baselines.rag_engine import RagEngine
from baselines.rag_writer import RagWriter
from memory_model.runtime import has_trained_bundle
from paramem.settings import EngineKind, ReaderKind, Settings
from server.engine.factory import build_generator
from server.run import run_server
from trainer_worker.process import run_worker


def serve_rag(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; see :func:`server.run.run_server`."""
    settings = as_rag(settings)
    run_server(settings, generator=RagEngine(settings, build_generator(settings)))


def run_rag_worker(settings: Settings) -> None:
    """Embed what is written until SIGTERM or SIGINT."""
    run_worker(as_rag(settings), make_writer=RagWriter.load)


def as_rag(settings: Settings) -> Settings:
    """Settings under which the LLM reads text: tuned for it if there is a bundle, else as it is."""
    if settings.engine is EngineKind.DUMMY or not has_trained_bundle(settings):
        return settings
    return settings.model_copy(update={"reader": ReaderKind.TEXT})
