"""What tests of the parts of the engine share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from tests.unit.server.engine.tiny_lm import packed_lm


@pytest.fixture
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def lm(tiny_model: Path) -> PreTrainedModel:
    return packed_lm(tiny_model)
