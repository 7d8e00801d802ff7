"""Restoring: every byte is brought back, verified and audited before anything is replaced."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from memory_store.audit import doctor
from memory_store.crashpoints import reach
from memory_store.errors import CorruptionError
from memory_store.files import make_directory, sync_directory
from memory_store.snapshots import pending
from memory_store.snapshots.manifest import Snapshot, SnapshotFile
from memory_store.snapshots.pending import ENTRIES, RESTORE, STATE
from memory_store.snapshots.place import Place
from memory_store.storage import Storage


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """What a restore did. ``applied``: False = at the next start with nobody in the home."""

    snapshot_id: str
    num_bytes: int
    fingerprints: list[str]
    applied: bool


def prepare(
    home: Path, place: Place, snapshot: Snapshot, progress: Callable[[float], None]
) -> None:
    """Build and verify the snapshot's state under ``home/restore`` and announce it.

    Raises:
        CorruptionError: a file is missing or not what was stored, or the audit finds a problem;
            the home is as it was.
        DiskFullError; IncompatibleFormatError: a newer paramem took it.
    """
    make_directory(home)
    pending.discard(home)
    state = home / RESTORE / STATE
    make_directory(home / RESTORE)
    make_directory(state)
    try:
        done = 0
        for file in snapshot.files:
            _fetch(place, file, state / file.path)
            reach("h-file-fetched")
            done += file.num_bytes
            progress(done / max(1, snapshot.num_bytes))
        for directory in (state, *(path for path in state.rglob("*") if path.is_dir())):
            sync_directory(directory)
        _audit(state, snapshot)
        for entry in ENTRIES[1:]:
            make_directory(state / entry)
        sync_directory(state)
    except BaseException:
        pending.discard(home)
        raise
    pending.announce(home, snapshot.snapshot_id)


def _fetch(place: Place, file: SnapshotFile, target: Path) -> None:
    make_directory(target.parent)
    try:
        # only shards are never written again once they are there
        found = place.fetch(file.sha256, target, immutable=file.path.startswith("shards/"))
    except FileNotFoundError:
        raise CorruptionError(
            f"{file.path} of this snapshot is missing in its place; restore another"
        ) from None
    if found != file.sha256:
        raise CorruptionError(
            f"{file.path} of this snapshot does not match its checksum; restore another"
        )


def _audit(state: Path, snapshot: Snapshot) -> None:
    """Open it as a home, which migrates it; give back leases, whose workers are of another time."""
    storage = Storage.open(state, max_attempts=3, clock=lambda: 0.0, orphan_grace_s=0.0)
    try:
        with storage.catalogue.write() as connection:
            connection.execute(
                "UPDATE jobs SET status = 'queued', attempts = max(0, attempts - 1),"
                " lease_owner = NULL, lease_expires_at = NULL WHERE status = 'running'"
            )
            connection.execute("DELETE FROM workers")
        problems = doctor.check(storage, {}, repair=False)
    finally:
        storage.close()
    if problems:
        raise CorruptionError(
            f"snapshot {snapshot.snapshot_id} was brought back whole but is not sound "
            f"({len(problems)} problems, first: {problems[0].message}); restore another"
        )
