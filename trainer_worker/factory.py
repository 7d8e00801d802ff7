"""Builds the writer that the settings name."""

from __future__ import annotations

from paramem.settings import Settings, WriterKind
from trainer_worker.writer import MemoryWriter


def build_writer(settings: Settings) -> MemoryWriter:
    """May take minutes: ``model`` loads the LLM.

    Raises: ImportError naming the extra to install when the model's packages are missing.
    """
    match settings.writer:
        case WriterKind.DUMMY:
            from trainer_worker.dummy_writer import DummyWriter

            return DummyWriter.from_settings(settings)
        case WriterKind.MODEL:
            try:
                from trainer_worker.model_writer import ModelWriter
            except ImportError as error:
                raise ImportError(
                    f"PARAMEM_WRITER=model needs {error.name}: pip install 'paramem[worker]', "
                    "or set PARAMEM_WRITER=dummy"
                ) from error
            return ModelWriter.load(settings)
