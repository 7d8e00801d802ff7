"""The key file, and who may listen where."""

from __future__ import annotations

from pathlib import Path

import pytest

from paramem.settings import load_settings
from server.auth import ApiKeyFileError, load_api_keys
from server.run import refuse_open_door


def test_keys_are_lines_without_comments_and_blanks(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("# ours\nfirst\n\n  second  \n")
    assert load_api_keys(path) == (b"first", b"second")


def test_no_file_means_no_keys() -> None:
    assert load_api_keys(None) == ()


@pytest.mark.parametrize("content", [b"", b"# only a comment\n", b"\xff\xfe"])
def test_a_file_without_keys_is_refused_and_the_setting_named(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "keys"
    path.write_bytes(content)
    with pytest.raises(ApiKeyFileError, match="PARAMEM_API_KEY_FILE"):
        load_api_keys(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ApiKeyFileError, match="cannot be read"):
        load_api_keys(tmp_path / "nowhere")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "example.org"])
def test_without_keys_only_loopback_may_be_listened_on(host: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="PARAMEM_API_KEY_FILE"):
        refuse_open_door(load_settings(host=host))
    refuse_open_door(load_settings(host=host, api_key_file=tmp_path / "keys"))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_loopback_needs_no_key(host: str) -> None:
    refuse_open_door(load_settings(host=host))
