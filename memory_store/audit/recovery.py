"""What a crash leaves behind: temp files and shards no transaction took into use.

Such a file may also belong to a write in progress in another process, so it is swept only past a
grace period, and an orphan only inside a write transaction: a commit that is about to use it
either has done so, or will find it gone and fail cleanly.
"""

from __future__ import annotations

import time
from pathlib import Path

from memory_store.catalogue.database import Connection
from memory_store.files import TEMP_SUFFIX, remove, told_as_disk_errors
from memory_store.storage import Storage


def sweep(storage: Storage) -> int:
    """Delete old leftovers. Returns how many files went."""
    temps = temp_files(storage)
    for temp in temps:
        remove(temp)
    with storage.catalogue.read() as connection:
        orphans = orphan_shards(storage, connection)
    if orphans:
        with storage.catalogue.write() as connection:
            orphans = orphan_shards(storage, connection)
            storage.shards.unlink(orphans)
    return len(temps) + len(orphans)


def temp_files(storage: Storage) -> list[Path]:
    """Of unfinished writes."""
    found = [
        *storage.shards.root.glob(f"*/.*{TEMP_SUFFIX}"),
        *(storage.home / "index").glob(f".*{TEMP_SUFFIX}"),
        *storage.home.glob(f".last-*{TEMP_SUFFIX}"),
    ]
    return sorted(path for path in found if _is_old(storage, path))


def orphan_shards(storage: Storage, connection: Connection) -> list[str]:
    """Names of shard files the catalogue does not know."""
    on_disk = storage.shards.names()
    known = {name for (name,) in connection.execute("SELECT name FROM shards")}
    return [
        name
        for name in on_disk
        if name not in known and _is_old(storage, storage.shards.path(name))
    ]


def _is_old(storage: Storage, path: Path) -> bool:
    try:
        # wall clock: a file's age has no other
        with told_as_disk_errors():
            modified = path.stat().st_mtime
        return time.time() - modified >= storage.orphan_grace_s
    except FileNotFoundError:
        return False
