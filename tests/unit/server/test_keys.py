"""The grammar of the key file, and that a running server follows it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from server.key_file import REREAD_S, ApiKeyFileError, KeyFile
from server.keys import SCOPES, ApiKey, KeyLineError, Rate, digest_of, parse_keys, parse_line

SECRET = "paramem_" + "5e" * 24
DIGEST = digest_of(SECRET.encode()).hex()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def line(options: str, name: str = "app") -> str:
    return f"{name} sha256:{DIGEST} {options}"


def test_a_plain_key_may_do_everything() -> None:
    first, second = parse_keys("# ours\nfirst\n\n  second  \n")
    assert first.scopes == second.scopes == set(SCOPES)
    assert first.collections is first.rate is first.max_bytes is None
    assert (first.digest, second.digest) == (digest_of(b"first"), digest_of(b"second"))


def test_a_line_says_what_its_key_may() -> None:
    options = "scopes=read,write collections=notes,wiki rate=90/m documents=10 bytes=2GB"
    assert parse_line(line(options)) == ApiKey(
        name="app",
        digest=bytes.fromhex(DIGEST),
        scopes=frozenset({"read", "write"}),
        collections=frozenset({"notes", "wiki"}),
        rate=Rate(90, 60.0),
        max_documents=10,
        max_bytes=2 * 10**9,
    )


@pytest.mark.parametrize(
    "bad",
    [
        f"sha256:{DIGEST}",
        f"app {SECRET} scopes=read",
        f"app {SECRET}",
        line(""),
        line("scopes="),
        line("scopes=read,root"),
        line("scopes=read scopes=write"),
        line("scopes=read colection=notes"),
        line("scopes=read collections="),
        line("scopes=read collections=../up"),
        line("scopes=read rate=0/s"),
        line("scopes=read rate=10"),
        line("scopes=read documents=-1"),
        line("scopes=read bytes=1XB"),
        line("scopes=read", name="a:b"),
        line("scopes=read").replace("sha256:", "md5:"),
        f"first\nfirst\n{line('scopes=read')}",
        f"{line('scopes=read')}\nother {line('scopes=read').partition(' ')[2]}",
        f"{SECRET}\n{line('scopes=read')}",
        "# only a comment",
    ],
)
def test_a_line_that_is_no_key_is_refused_and_not_quoted(bad: str) -> None:
    with pytest.raises(KeyLineError) as refusal:
        parse_keys(bad)
    assert SECRET not in str(refusal.value)
    assert DIGEST not in str(refusal.value)


@given(st.text(max_size=200))
def test_any_content_is_keys_or_a_refusal(content: str) -> None:
    with suppress(KeyLineError):
        assert parse_keys(content)


def test_a_key_is_not_in_what_is_printed_of_it() -> None:
    [key] = parse_keys(SECRET)
    assert SECRET not in repr(key)
    assert DIGEST not in repr(key).lower()


@pytest.mark.parametrize("content", [b"", b"# only a comment\n", b"\xff\xfe"])
def test_a_file_without_keys_is_refused_and_the_setting_named(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "keys"
    path.write_bytes(content)
    with pytest.raises(ApiKeyFileError, match="PARAMEM_API_KEY_FILE"):
        KeyFile(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ApiKeyFileError, match="cannot be read"):
        KeyFile(tmp_path / "nowhere")


def test_keys_rotate_without_a_restart(tmp_path: Path) -> None:
    path, clock = tmp_path / "keys", Clock()
    path.write_text("old-key")
    stamp = path.stat().st_mtime_ns
    keys = KeyFile(path, clock=clock)
    path.write_text("new-key")  # of the same length,
    os.utime(path, ns=(stamp, stamp))  # at the same time
    assert keys.find(b"old-key") is not None  # the file is not read for every request
    clock.now += REREAD_S
    assert keys.find(b"old-key") is None
    assert keys.find(b"new-key") is not None


def broken(path: Path) -> None:
    path.write_text(f"{SECRET}\napp sha256:{DIGEST} scopes=all\n")


@pytest.mark.parametrize("spoil", [broken, Path.unlink], ids=["bad line", "gone"])
def test_a_broken_file_leaves_the_old_keys_in_force(tmp_path: Path, spoil: Any) -> None:
    path, clock = tmp_path / "keys", Clock()
    path.write_text("old-key")
    keys = KeyFile(path, clock=clock)
    spoil(path)
    with capture_logs() as logs:
        for _ in range(3):
            clock.now += REREAD_S
            assert keys.find(b"old-key") is not None
            assert keys.find(SECRET.encode()) is None
    assert [entry["event"] for entry in logs] == ["api_keys_kept"]
    assert SECRET not in str(logs)
    path.write_text("mended")
    clock.now += REREAD_S
    assert keys.find(b"mended") is not None
    assert keys.find(b"old-key") is None
