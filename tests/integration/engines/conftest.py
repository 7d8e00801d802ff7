"""The tiny reading model, and how it is stepped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from server.engine.batch import Batch
from tests.integration.engines.tiny_reading import TinyReadingModel


@pytest.fixture
def model(tiny_model: Path) -> TinyReadingModel:
    return TinyReadingModel(tiny_model)


@pytest.fixture
def rows_of_steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of every decode step from here on."""
    rows: list[int] = []
    step = Batch.step

    def counted(batch: Batch, tokens: list[int]) -> torch.Tensor:
        rows.append(len(tokens))
        return step(batch, tokens)

    monkeypatch.setattr(Batch, "step", counted)
    return rows
