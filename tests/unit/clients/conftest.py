"""Fixtures of the client tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.clients.fake_server import FakeServer, running_fake_server


@pytest.fixture
def fake_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    """A running stand-in server that ``PARAMEM_URL`` points to."""
    with running_fake_server() as server:
        monkeypatch.setenv("PARAMEM_URL", server.url)
        yield server
