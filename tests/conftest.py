"""Fixtures shared by every layer."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import structlog

from tests.tiny import save_tiny_model

if TYPE_CHECKING:
    from memory_model.bundle import Bundle

# Nothing in the suite may reach a hub; two threads spin-waiting on shared cores slow everything.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("PARAMEM_"):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _logs_end_with_their_test() -> Iterator[None]:
    """A test that starts a server here sends logs to its own stderr, which is closed after it."""
    root = logging.getLogger()
    level = root.level
    yield
    for handler in list(root.handlers):
        if isinstance(handler.formatter, structlog.stdlib.ProcessorFormatter):
            root.removeHandler(handler)
    root.setLevel(level)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a tiny random causal LM."""
    return save_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_bundle(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The untrained bundle of the tiny model: m = 4 slots, d = 32."""
    from memory_model.runtime import open_bundle
    from paramem.settings import Settings

    settings = Settings(
        home=tmp_path_factory.mktemp("home"),
        cache=tmp_path_factory.mktemp("cache"),
        model=str(tiny_model),
        device="cpu",
        slots=4,
        z_dim=32,
    )
    return open_bundle(settings)
