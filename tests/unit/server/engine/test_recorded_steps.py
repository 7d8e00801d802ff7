"""Whether a model's steps may be recorded is tried before the first request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from server.engine import batch as batch_module
from server.engine.transformers_engine import can_be_recorded, first_steps
from tests.integration.engines.tiny_reading import TinyReadingModel


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    return TinyReadingModel(tiny_model)


def test_steps_are_recorded_where_they_say_the_same(model: Any) -> None:
    assert can_be_recorded(model, first_steps(model, recorded=False))


def test_steps_that_would_say_something_else_are_not_recorded(model: Any) -> None:
    plain = first_steps(model, recorded=False)
    assert not can_be_recorded(model, plain + 0.2 * plain.abs().max())


def test_an_operator_that_cannot_be_recorded_leaves_the_engine_slower(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refused:
        def __init__(self, *_: object, **__: object) -> None:
            raise RuntimeError("operation not permitted when stream is capturing")

    plain = first_steps(model, recorded=False)
    monkeypatch.setattr(batch_module, "Recording", Refused)
    assert not can_be_recorded(model, plain)
