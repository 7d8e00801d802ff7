"""A fresh store per test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from memory_store import MemoryStore
from tests.unit.memory_store.making import Clock, open_store


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[MemoryStore]:
    with open_store(tmp_path / "home", clock=clock, orphan_grace_s=0.0) as opened:
        yield opened
