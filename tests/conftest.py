"""Fixtures shared by every layer."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.tiny import save_tiny_model

# Nothing in the suite may reach a hub; two threads spin-waiting on shared cores slow everything.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("PARAMEM_"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a tiny random causal LM."""
    return save_tiny_model(tmp_path_factory.mktemp("tiny"))
