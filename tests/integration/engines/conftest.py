"""The tiny reading model, and how it is stepped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from memory_model.packed_llama import pack_model
from server.engine.batch import Batch
from tests.integration.engines.tiny_reading import TinyReadingModel


@pytest.fixture(params=["plain", "packed"])
def model(request: pytest.FixtureRequest, tiny_model: Path) -> TinyReadingModel:
    """Packed, where that can be (x86), rows go on while others are prefilled."""
    plain = TinyReadingModel(tiny_model)
    if request.param == "plain":
        return plain
    return TinyReadingModel(tiny_model, pack_model(plain.lm, may_round=True))


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
