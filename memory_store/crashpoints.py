"""Named points of the write protocol where a test may kill the process.

``MEMSTORE_CRASH_AT=<name>`` sends SIGKILL to this process when it reaches that point: nothing is
flushed, no handler runs. The letters are the steps of the protocol: a submit, b lease, c codes
made but not stored, d shard, e commit, f index file, g compaction, h snapshot and restore,
i delete, j repair, k migration.
"""

from __future__ import annotations

import os
import signal

VARIABLE = "MEMSTORE_CRASH_AT"

CRASH_POINTS = (
    "a-before-commit",
    "a-after-commit",
    "b-after-lease",
    "c-before-shard",
    "d-torn",
    "d-synced",
    "d-renamed",
    "e-before-commit",
    "e-after-commit",
    "f-torn",
    "f-synced",
    "f-renamed",
    "g-before-repoint",
    "g-after-repoint",
    "g-after-unlink",
    "g-after-purge",
    "g-before-vacuum",
    "i-before-commit",
    "i-after-commit",
    "j-after-tombstone",
    "k-before-migrated",
    "h-catalogue-copied",
    "h-file-kept",
    "h-before-manifest",
    "h-torn",
    "h-synced",
    "h-renamed",
    "h-after-manifest",
    "h-file-fetched",
    "h-restore-verified",
    "h-ready-torn",
    "h-ready-renamed",
    "h-swap-between",
    "h-swap-entry",
    "h-swapped",
)


def reach(point: str) -> None:
    """Die here if the environment says so."""
    if os.environ.get(VARIABLE) == point:
        os.kill(os.getpid(), signal.SIGKILL)
