"""A durable write is wholly there or not at all, whatever the device answers."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from memory_store import DiskFailedError, DiskFullError
from memory_store.files import make_directory, write_durably


def test_a_write_replaces_the_file_and_leaves_no_temp_file(tmp_path: Path) -> None:
    path = tmp_path / "shard"
    write_durably(path, b"old", step="d")
    write_durably(path, b"new content", step="d")
    assert path.read_bytes() == b"new content"
    assert list(tmp_path.iterdir()) == [path]


def test_file_and_directory_are_synced_in_the_right_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    real_fsync, real_replace = os.fsync, Path.replace

    def fsync(descriptor: int) -> None:
        events.append("fsync " + ("dir" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"))
        real_fsync(descriptor)

    def replace(self: Path, target: Path) -> Path:
        events.append("rename")
        return real_replace(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    write_durably(tmp_path / "shard", b"content", step="d")
    assert events == ["fsync file", "rename", "fsync dir"]


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real_write(fd, bytes(data)[:3]))
    write_durably(tmp_path / "shard", b"a longer content", step="d")
    assert (tmp_path / "shard").read_bytes() == b"a longer content"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    path = tmp_path / "shard"
    write_durably(path, b"old", step="d")

    def fail(descriptor: int, data: bytes) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "write", fail)
    with pytest.raises(DiskFullError, match="compact"):
        write_durably(path, b"new", step="d")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failing_sync_is_not_taken_for_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(DiskFailedError, match="Input/output"):
        write_durably(tmp_path / "shard", b"new", step="d")
    assert list(tmp_path.iterdir()) == []


def test_a_new_directory_is_private(tmp_path: Path) -> None:
    make_directory(tmp_path / "home")
    assert (tmp_path / "home").stat().st_mode & 0o777 == 0o700


def test_a_directory_that_could_not_be_synced_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next call would take it for durable."""

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(DiskFailedError):
            make_directory(tmp_path / "home")
    assert not (tmp_path / "home").exists()
    make_directory(tmp_path / "home")
    assert (tmp_path / "home").is_dir()
