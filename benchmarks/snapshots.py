"""Seconds that snapshots and restores take, of a home of random memories.

    python -m benchmarks.snapshots --gigabytes 1 --append

"Linked" keeps shards by hard link (a place on the home's file system), "copied" writes them (what
another disk would get; here the same one, through fsspec's ``file://``). Restores include checksums
of every file and the audit of the restored state.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from benchmarks.homes import write_together
from memory_store import (
    Job,
    MemorySpec,
    MemoryStore,
    PassageMemory,
    Snapshots,
    WriteMode,
    WriteRequest,
)

RESULTS = Path(__file__).with_name("RESULTS.md")
SPEC = MemorySpec("benchmark", slots=64, z_dim=576)  # as the shipped bundle's, bf16
PASSAGES_A_DOCUMENT = 4
DOCUMENTS_A_BATCH = 16
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Timing:
    what: str
    seconds: float
    cpu_seconds: float  # of this process: what is left on a machine shared with others
    gigabytes: float  # of the snapshot
    new_gigabytes: float  # written by it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--directory", type=Path, help="where to work; default: the system's")
    parser.add_argument("--append", action="store_true", help=f"append to {RESULTS.name}")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.directory) as work:
        report = measure(Path(work), arguments.gigabytes)
    sys.stdout.write(report)
    if arguments.append:
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(report)


def measure(work: Path, gigabytes: float) -> str:
    """Fill a home, then time every operation once on it."""
    home, copies = work / "home", f"file://{work / 'copies'}"
    timings: list[Timing] = []
    with MemoryStore.open(home) as store:
        store.put_collection("default", SPEC)
        fill(store, gigabytes)
        linked, copied = Snapshots(home), Snapshots(home, copies)
        for what, snapshots in (
            ("first snapshot, linked", linked),
            ("second, nothing new", linked),
            ("first snapshot, copied", copied),
            ("second, nothing new", copied),
        ):
            seconds, report = timed(partial(store.snapshot, snapshots))
            size, new = report.snapshot.num_bytes / 1e9, report.new_bytes / 1e9
            timings.append(Timing(what, *seconds, size, new))
        seconds, problems = timed(store.check)
        if problems:
            raise SystemExit(f"the home is not sound: {problems[0].message}")
        timings.append(Timing("doctor alone", *seconds, size, 0.0))
    for what, place in (("linked", home / "snapshots"), ("copied", copies)):
        snapshots = Snapshots(work / f"restored-{what}", place)
        snapshot_id = snapshots.newest().snapshot_id
        seconds, restored = timed(partial(snapshots.restore, snapshot_id))
        size = restored.num_bytes / 1e9
        timings.append(Timing(f"restore, {what}", *seconds, size, size))
    return table(timings)


def fill(store: MemoryStore, gigabytes: float) -> None:
    """Random codes; every passage differs from every other."""
    rng = np.random.default_rng(0)
    codes = rng.standard_normal((SPEC.slots, SPEC.z_dim)).astype(np.float32)
    row_bytes = 2 * (SPEC.slots + 1) * SPEC.z_dim
    documents = max(1, round(gigabytes * 1e9 / (row_bytes * PASSAGES_A_DOCUMENT)))

    def remember(_job: Job) -> list[PassageMemory]:
        nonlocal codes
        passages = []
        for _ in range(PASSAGES_A_DOCUMENT):
            key = rng.standard_normal(SPEC.z_dim).astype(np.float32)
            codes = np.roll(codes, 1) + np.float32(1e-2)
            passages.append(PassageMemory(codes, key / np.linalg.norm(key), 0, 100, 100))
        return passages

    for first in range(0, documents, DOCUMENTS_A_BATCH):
        requests = [
            WriteRequest(f"document {number} " * 40, f"d{number}", mode=WriteMode.FAST)
            for number in range(first, min(documents, first + DOCUMENTS_A_BATCH))
        ]
        write_together(store, SPEC, requests, remember)


def timed(work: Callable[[], T]) -> tuple[tuple[float, float], T]:
    """Wall and CPU seconds, and what came out."""
    started, cpu_started = time.perf_counter(), time.process_time()
    result = work()
    return (time.perf_counter() - started, time.process_time() - cpu_started), result


def table(timings: list[Timing]) -> str:
    lines = [
        f"\n## Operations: snapshots, {datetime.now(UTC):%Y-%m-%d}\n",
        f"{timings[0].gigabytes:.2f} GB of shards of random memories (m = {SPEC.slots}, "
        f"d = {SPEC.z_dim}, bf16) and their catalogue; {os.cpu_count()} cores; every "
        f"operation once. Command: `python -m benchmarks.snapshots --gigabytes "
        f"{timings[0].gigabytes:.2g}`.\n",
        "| operation | seconds a GB | of which CPU | GB the place did not have |",
        "|---|--:|--:|--:|",
    ]
    lines += [
        f"| {one.what} | {one.seconds / one.gigabytes:.2f} "
        f"| {one.cpu_seconds / one.gigabytes:.2f} | {one.new_gigabytes:.3f} |"
        for one in timings
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
