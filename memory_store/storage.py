"""What every operation of the store works on, handed around as one value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from memory_store.catalogue.database import Catalogue
from memory_store.file_lock import FileLock
from memory_store.files import make_directory
from memory_store.jobs.sqlite_jobs import SqliteJobQueue
from memory_store.right_of_way import RightOfWay
from memory_store.shards.quantisers import Quantisers
from memory_store.shards.shard_files import ShardFiles
from memory_store.snapshots.pending import open_home


@dataclass(slots=True)
class Counters:
    """Events of this process, for metrics."""

    checksum_failures: int = 0
    index_rebuilds: int = 0


@dataclass(frozen=True, slots=True)
class Storage:
    """An open home directory."""

    home: Path
    catalogue: Catalogue
    shards: ShardFiles
    jobs: SqliteJobQueue
    clock: Callable[[], float]
    orphan_grace_s: float  # a file nobody refers to may be a write in progress until this age
    in_use: FileLock  # shared by every process that has this home open
    right_of_way: RightOfWay
    counters: Counters = field(default_factory=Counters)
    quantisers: Quantisers = field(default_factory=Quantisers)

    @classmethod
    def open(
        cls, home: Path, *, max_attempts: int, clock: Callable[[], float], orphan_grace_s: float
    ) -> Storage:
        """Create ``home`` if needed, swap in a waiting restore, bring the catalogue up to date.

        Raises:
            IncompatibleFormatError, CorruptionError, DiskFullError, DiskFailedError
        """
        make_directory(home)
        in_use = open_home(home)
        make_directory(home / "index")
        shards = ShardFiles(home / "shards")
        catalogue = Catalogue(home / "catalogue.db")
        return cls(
            home=home,
            catalogue=catalogue,
            shards=shards,
            jobs=SqliteJobQueue(catalogue, max_attempts=max_attempts, clock=clock),
            clock=clock,
            orphan_grace_s=orphan_grace_s,
            in_use=in_use,
            right_of_way=RightOfWay(home / ".queries"),
        )

    def index_path(self, collection_id: int) -> Path:
        return self.home / "index" / f"{collection_id}.faiss"

    def close(self) -> None:
        self.catalogue.close()
        self.shards.close()
        self.right_of_way.close()
        self.in_use.close()
