"""Who may listen where, and which scope opens what."""

from __future__ import annotations

from pathlib import Path

import pytest

from paramem.settings import load_settings
from server.auth import sufficient_scopes
from server.run import refuse_open_door


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "example.org"])
def test_without_keys_only_loopback_may_be_listened_on(host: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="PARAMEM_API_KEY_FILE"):
        refuse_open_door(load_settings(host=host))
    refuse_open_door(load_settings(host=host, api_key_file=tmp_path / "keys"))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_loopback_needs_no_key(host: str) -> None:
    refuse_open_door(load_settings(host=host))


@pytest.mark.parametrize(
    ("method", "path", "scopes"),
    [
        ("POST", "/query", {"read"}),
        ("POST", "/v1/chat/completions", {"read"}),
        ("GET", "/memories/a/reconstruction", {"read"}),
        ("DELETE", "/memories/a", {"write"}),
        ("POST", "/write/batch", {"write"}),
        ("GET", "/jobs/a/events", {"read", "write"}),
        ("DELETE", "/jobs/a", {"write"}),
        ("GET", "/collections/a", {"read"}),
        ("PUT", "/collections/a", {"admin"}),
        ("DELETE", "/collections/a", {"admin"}),
        ("GET", "/snapshots", {"admin"}),
        ("POST", "/snapshots/a/restore", {"admin"}),
        ("PATCH", "/a-route-to-come", {"write"}),
        ("GET", "/a-route-to-come", {"read"}),
        ("OPTIONS", "*", {"write"}),
    ],
)
def test_every_route_needs_a_scope(method: str, path: str, scopes: set[str]) -> None:
    assert sufficient_scopes(method, path) == scopes
