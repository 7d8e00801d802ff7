"""The manifest: what a snapshot consists of. Written last, so a listed snapshot is whole.

A place that keeps snapshots holds ``manifests/<snapshot id>.json`` and ``files/<sha256>``: bytes
under the name of their checksum, shared by all snapshots that need them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import uuid_utils

from memory_store.errors import CorruptionError, IncompatibleFormatError, NotFoundError

FORMAT_VERSION = 1
SNAPSHOT_ID = re.compile(r"snap_[0-9a-f]{32}")
SHA256 = re.compile(r"[0-9a-f]{64}")
# what a snapshot may put into a home, and nothing else: a manifest may come from anywhere
PATH = re.compile(
    r"catalogue\.db|shards/[0-9]+/[0-9a-f]+\.safetensors|bundles(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)+"
)


@dataclass(frozen=True, slots=True)
class SnapshotFile:
    path: str  # below the home
    sha256: str
    num_bytes: int


@dataclass(frozen=True, slots=True)
class SnapshotCollection:
    """A collection as it was, with the bundle that its memories need."""

    name: str
    fingerprint: str
    slots: int  # m
    z_dim: int  # d
    code_format: str
    documents: int
    memories: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A point in time that can be restored."""

    snapshot_id: str
    created_at: float
    paramem: str  # the version that took it
    collections: Sequence[SnapshotCollection]
    files: Sequence[SnapshotFile]

    @property
    def num_bytes(self) -> int:
        return sum(file.num_bytes for file in self.files)

    @property
    def documents(self) -> int:
        return sum(collection.documents for collection in self.collections)

    @property
    def memories(self) -> int:
        return sum(collection.memories for collection in self.collections)

    @property
    def fingerprints(self) -> list[str]:
        """Bundles without which some of the memories cannot be read."""
        return sorted({collection.fingerprint for collection in self.collections})

    def to_json(self) -> bytes:
        return json.dumps({"format_version": FORMAT_VERSION, **asdict(self)}, indent=1).encode()


def new_snapshot_id() -> str:
    """Ids sort by time."""
    return f"snap_{uuid_utils.uuid7().hex}"


def checked_id(snapshot_id: str) -> str:
    """The id, if it is one: it becomes a file name. Raises: NotFoundError."""
    if SNAPSHOT_ID.fullmatch(snapshot_id) is None:
        raise NotFoundError(
            f"there is no snapshot {snapshot_id!r}; an id looks like snap_01a2… (GET /snapshots, "
            "paramem snapshots list)",
            param="snapshot_id",
        )
    return snapshot_id


def parse_manifest(data: bytes, snapshot_id: str) -> Snapshot:
    """Read one back.

    Raises:
        CorruptionError: damaged, or it names a file that no snapshot has.
        IncompatibleFormatError: a newer paramem wrote it.
    """
    try:
        fields = json.loads(data)
        version = int(fields.pop("format_version"))
        if version > FORMAT_VERSION:
            raise IncompatibleFormatError(
                f"snapshot {snapshot_id} has format {version}, this paramem reads up to "
                f"{FORMAT_VERSION}: upgrade paramem"
            )
        fields["collections"] = [SnapshotCollection(**one) for one in fields["collections"]]
        fields["files"] = [_checked_file(one) for one in fields["files"]]
        snapshot = Snapshot(**fields)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _damaged(snapshot_id, "cannot be read") from error
    if snapshot.snapshot_id != snapshot_id:
        raise _damaged(snapshot_id, f"is that of {snapshot.snapshot_id!r}")
    return snapshot


def _checked_file(fields: dict[str, Any]) -> SnapshotFile:
    file = SnapshotFile(**fields)
    if PATH.fullmatch(file.path) is None or SHA256.fullmatch(file.sha256) is None:
        raise ValueError(f"{file.path!r} is not a file of a snapshot")
    return file


def _damaged(snapshot_id: str, what: str) -> CorruptionError:
    return CorruptionError(
        f"the manifest of snapshot {snapshot_id} {what}; restore another (paramem snapshots list)"
    )
