"""Where snapshots are kept: a directory, or any URL that fsspec knows (gs://, s3://, sftp:// …)."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import uuid
from pathlib import Path
from typing import Any, Protocol

from memory_store.errors import CorruptionError, StoreError
from memory_store.files import (
    TEMP_SUFFIX,
    make_directory,
    sync_directory,
    sync_file,
    told_as_disk_errors,
    write_durably,
)

MANIFESTS, FILES = "manifests", "files"
NO_LINK = (errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.EACCES)


class Place(Protocol):
    """Two flat folders: ``manifests`` and ``files``. Names are checked by the caller."""

    def names(self, folder: str) -> dict[str, int]:
        """What is there, with sizes in bytes. Unfinished writes are left out."""
        ...

    def read(self, folder: str, name: str) -> bytes:
        """Raises: FileNotFoundError."""
        ...

    def write(self, folder: str, name: str, data: bytes) -> None:
        """Whole and durable, or not at all."""
        ...

    def store(self, name: str, source: Path, *, immutable: bool) -> None:
        """Keep a file. An ``immutable`` one may be hard-linked."""
        ...

    def fetch(self, name: str, target: Path, *, immutable: bool) -> str:
        """Bring a file back, durably but for its directory. Returns its sha256 as read.

        Raises: FileNotFoundError.
        """
        ...

    def delete(self, folder: str, name: str) -> None: ...

    def sync(self) -> None:
        """After this, every stored file survives a power cut."""
        ...


def open_place(place: str | Path) -> Place:
    """Raises: StoreError if it is a URL and what speaks its protocol is not installed."""
    if "://" in str(place):
        return RemotePlace(str(place))
    return DirectoryPlace(Path(place).expanduser().absolute())


class DirectoryPlace:
    """A directory. On the home's file system, shards are hard-linked: no time, no bytes."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def names(self, folder: str) -> dict[str, int]:
        directory = self._root / folder
        if not directory.is_dir():
            return {}
        return {
            path.name: path.stat().st_size
            for path in directory.iterdir()
            if not path.name.startswith(".")
        }

    def read(self, folder: str, name: str) -> bytes:
        return (self._root / folder / name).read_bytes()

    def write(self, folder: str, name: str, data: bytes) -> None:
        self._make(folder)
        write_durably(self._root / folder / name, data, step="h")

    def store(self, name: str, source: Path, *, immutable: bool) -> None:
        self._make(FILES)
        temp = self._root / FILES / f".{name}.{uuid.uuid4().hex}{TEMP_SUFFIX}"
        try:
            copy_durably(source, temp, link=immutable)
            temp.replace(self._root / FILES / name)
        except BaseException:
            temp.unlink(missing_ok=True)
            raise

    def fetch(self, name: str, target: Path, *, immutable: bool) -> str:
        copy_durably(self._root / FILES / name, target, link=immutable)
        return sha256_of(target)

    def delete(self, folder: str, name: str) -> None:
        (self._root / folder / name).unlink(missing_ok=True)
        sync_directory(self._root / folder)

    def sync(self) -> None:
        self._make(FILES)
        sync_directory(self._root / FILES)

    def _make(self, folder: str) -> None:
        make_directory(self._root)
        make_directory(self._root / folder)


class RemotePlace:
    """A URL. Object stores make a put whole or not at all; what else happens, checksums find."""

    def __init__(self, url: str) -> None:
        try:
            import fsspec

            self._files, root = fsspec.core.url_to_fs(url)
        except ImportError as error:
            raise StoreError(
                f"{url} needs packages that are not installed ({error}): "
                "pip install 'paramem[remote]' and the one for its protocol, e.g. gcsfs or s3fs"
            ) from error
        except ValueError as error:
            raise StoreError(f"{url} is not a place for snapshots: {error}") from error
        self._root = root.rstrip("/")

    def names(self, folder: str) -> dict[str, int]:
        self._files.invalidate_cache()
        try:
            found: list[dict[str, Any]] = self._files.ls(f"{self._root}/{folder}", detail=True)
        except FileNotFoundError:
            return {}
        return {
            entry["name"].rpartition("/")[2]: int(entry["size"])
            for entry in found
            if entry["type"] == "file"
        }

    def read(self, folder: str, name: str) -> bytes:
        return bytes(self._files.cat_file(f"{self._root}/{folder}/{name}"))

    def write(self, folder: str, name: str, data: bytes) -> None:
        self._files.makedirs(f"{self._root}/{folder}", exist_ok=True)
        self._files.pipe_file(f"{self._root}/{folder}/{name}", data)

    def store(self, name: str, source: Path, *, immutable: bool) -> None:
        self._files.makedirs(f"{self._root}/{FILES}", exist_ok=True)
        self._files.put_file(str(source), f"{self._root}/{FILES}/{name}")

    def fetch(self, name: str, target: Path, *, immutable: bool) -> str:
        with told_as_disk_errors():
            self._files.get_file(f"{self._root}/{FILES}/{name}", str(target))
        sync_file(target)
        return sha256_of(target)

    def delete(self, folder: str, name: str) -> None:
        self._files.rm_file(f"{self._root}/{folder}/{name}")

    def sync(self) -> None:
        pass  # a put that returned is durable


def copy_durably(source: Path, target: Path, *, link: bool) -> None:
    """Copy, or hard-link where that is possible; the target's directory is not synced.

    Raises: FileNotFoundError; DiskFullError.
    """
    if link:
        try:
            os.link(source, target)
        except OSError as error:
            if error.errno not in NO_LINK:
                raise
        else:
            return
    with told_as_disk_errors():
        shutil.copyfile(source, target)
        target.chmod(0o600)
    sync_file(target)


def sha256_of(path: Path) -> str:
    """Raises: FileNotFoundError; CorruptionError if the disk cannot read it back."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        if error.errno == errno.EIO:
            raise CorruptionError(f"{path.name} cannot be read from its disk") from error
        raise
