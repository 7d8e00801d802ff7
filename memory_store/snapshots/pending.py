"""A restored state waits under ``<home>/restore`` until nobody has the home open.

Running processes hold open files and indexes of the state they opened, so it is swapped only by
the first to open the home while no one else has it open. ``ready.json`` says that the new state is
whole; from then on the swap is a row of renames, each of which can be repeated. What was there
before stays in ``<home>/before-restore-…`` until a later restore, or a person, deletes it.
"""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path

from memory_store.crashpoints import reach
from memory_store.file_lock import FileLock
from memory_store.files import make_directory, sync_directory, write_durably

RESTORE, READY, STATE, ASIDE = "restore", "ready.json", "state", "before-restore-"
ENTRIES = ("catalogue.db", "shards", "bundles", "index")
# of the old catalogue: must not meet the new
JOURNALS = ("catalogue.db-wal", "catalogue.db-shm", "catalogue.db-mark")


def open_home(home: Path) -> FileLock:
    """Share the home with other processes, after swapping in a restored state if there is one."""
    lock = FileLock(home / ".open")
    if is_pending(home) and lock.try_exclusive():
        apply(home)
    lock.share()
    return lock


def apply_if_alone(home: Path) -> bool:
    """Swap a waiting state in now. Returns: whether that could be done."""
    with FileLock(home / ".open") as lock:
        if not lock.try_exclusive():
            return False
        apply(home)
        return True


def is_pending(home: Path) -> bool:
    return (home / RESTORE / READY).exists()


def announce(home: Path, snapshot_id: str) -> None:
    """The state below ``restore`` is whole and verified."""
    ready = {"snapshot_id": snapshot_id, "aside": f"{ASIDE}{uuid.uuid4().hex[:12]}"}
    reach("h-restore-verified")
    write_durably(home / RESTORE / READY, json.dumps(ready).encode(), step="h-ready")


def apply(home: Path) -> None:
    """Nobody else has the home open. Killed anywhere, it goes on where it was."""
    marker = home / RESTORE / READY
    if not marker.exists():
        return
    aside = home / json.loads(marker.read_bytes())["aside"]
    state = home / RESTORE / STATE
    make_directory(aside)
    for entry in ENTRIES:
        if not (state / entry).exists():
            continue  # swapped before we were killed
        for old in (*(JOURNALS if entry == "catalogue.db" else ()), entry):
            if (home / old).exists():
                (home / old).rename(aside / old)
        sync_directory(aside)
        sync_directory(home)
        reach("h-swap-between")
        (state / entry).rename(home / entry)
        sync_directory(home)
        reach("h-swap-entry")
    for older in home.glob(f"{ASIDE}*"):
        if older != aside:
            shutil.rmtree(older, ignore_errors=True)
    reach("h-swapped")
    discard(home)


def discard(home: Path) -> None:
    """Forget a waiting or unfinished restore; the marker goes first."""
    (home / RESTORE / READY).unlink(missing_ok=True)
    if (home / RESTORE).is_dir():
        sync_directory(home / RESTORE)
    shutil.rmtree(home / RESTORE, ignore_errors=True)
