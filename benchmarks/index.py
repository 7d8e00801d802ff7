"""Selection at scale: recall, latency, memory and files of the vector indexes.

    python -m benchmarks.index --memories 10000 100000 1000000

Synthetic keys: a mixture of n / 20 clusters of unequal weight (rank^-0.5), centres and members with
a power-law spectrum (variance of axis j ~ j^-0.65, which has the participation ratio of the shipped
selector's keys, about 190 of 576), rotated, of unit norm and rounded to bfloat16 as in a shard. A
query is a key plus noise of the same spectrum, which is as far from it as a question from its
passage (mean best score about 0.45). Or real ones: --keys FILE.npy --queries FILE.npy.
"""

from __future__ import annotations

import argparse
import gc
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from benchmarks.command import say
from clients.soak.processes import rss_bytes
from memory_store import CompressedIndex, FlatIndex, FloatArray
from memory_store.index.compressed_index import SAMPLE
from memory_store.index.index_file import load_index_file, save_index_file
from memory_store.shards.codec import BF16

T = TypeVar("T")
TOP_K = 10
BLOCK = 16384
SPECTRUM = -0.65 / 2  # exponent of the standard deviation of axis j
CLUSTER_SIZE = 20
CLUSTER_SHARE = 0.5  # of a key's variance
QUERY_NOISE = 2.0  # length of what a query has beside its key
BATCH = 16  # documents of a commit
HEADINGS = (
    "index", "n", "build s", "add/s", "search p50 / p99 ms", "recall@10", "16 added ms",
    "16 removed ms", "filter to 100 ms", "filter to n/100 ms", "RAM MB", "file MB", "save s",
    "load s",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Workload:
    """n keys (n, d), queries (q, d) and the ids of each query's exact best (q, TOP_K)."""

    keys: FloatArray
    queries: FloatArray
    best: list[set[int]]

    @classmethod
    def of(cls, keys: FloatArray, queries: FloatArray) -> Workload:
        scores = np.concatenate(
            [queries @ keys[start : start + BLOCK].T for start in range(0, len(keys), BLOCK)], 1
        )
        best = np.argpartition(-scores, TOP_K, axis=1)[:, :TOP_K]
        return cls(keys, queries, [set(row) for row in best.tolist()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memories", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--dim", type=int, default=576)
    parser.add_argument("--queries-of-each", type=int, default=500)
    parser.add_argument("--keys", type=Path, help="(n, d) float32, instead of synthetic ones")
    parser.add_argument("--queries", type=Path, help="(q, d) float32")
    arguments = parser.parse_args()
    say(f"| {' | '.join(HEADINGS)} |\n{'|---' * len(HEADINGS)}|")
    for count in arguments.memories:
        if arguments.keys:
            keys = np.array(np.load(arguments.keys, mmap_mode="r")[:count])
            queries = np.load(arguments.queries)[: arguments.queries_of_each]
        else:
            keys, queries = synthetic(count, arguments.dim, arguments.queries_of_each)
        load = Workload.of(_as_stored(keys), queries)
        for make in (FlatIndex, CompressedIndex):
            measure(make, load)
            gc.collect()


def synthetic(count: int, dim: int, num_queries: int) -> tuple[FloatArray, FloatArray]:
    """Keys (n, d) and queries (q, d), unit norm; see the module's docstring."""
    random = np.random.default_rng(0)
    spread: FloatArray = (np.arange(1, dim + 1) ** SPECTRUM).astype(np.float32)
    spread /= np.linalg.norm(spread)
    rotation: FloatArray = np.linalg.qr(random.standard_normal((dim, dim)))[0].astype(np.float32)
    turned: FloatArray = spread[:, None] * rotation

    def draw(rows: int) -> FloatArray:
        drawn: FloatArray = random.standard_normal((rows, dim), np.float32) @ turned
        return drawn

    clusters = max(1, count // CLUSTER_SIZE)
    centres = draw(clusters)
    weights = np.arange(1, clusters + 1) ** -0.5
    keys = np.empty((count, dim), np.float32)
    for start in range(0, count, BLOCK):
        rows = min(BLOCK, count - start)
        of = random.choice(clusters, rows, p=weights / weights.sum())
        mixed = CLUSTER_SHARE**0.5 * centres[of] + (1 - CLUSTER_SHARE) ** 0.5 * draw(rows)
        keys[start : start + rows] = _unit(mixed)
    asked = keys[random.choice(count, num_queries, replace=False)]
    return keys, _unit(asked + QUERY_NOISE * _unit(draw(num_queries)))


def measure(make: type[FlatIndex] | type[CompressedIndex], load: Workload) -> None:
    """Print one row."""
    keys, count = load.keys, len(load.keys)
    before = resident_mb()
    started = time.perf_counter()
    index: FlatIndex | CompressedIndex
    if make is FlatIndex:
        index = FlatIndex(keys.shape[1])
    else:
        chosen = np.random.default_rng(0).permutation(count)[:SAMPLE]
        index = CompressedIndex(keys[np.sort(chosen)], expected=count)
    trained = time.perf_counter()
    for start in range(0, count, BLOCK):
        block = keys[start : start + BLOCK]
        index.add(range(start, start + len(block)), block)
    built = time.perf_counter()
    ram = resident_mb() - before
    times, recalls = [], []
    for query, best in zip(load.queries, load.best, strict=True):
        found, ms = timed(lambda query=query: index.search(query, TOP_K))  # type: ignore[misc]
        times.append(ms)
        recalls.append(len(best & {number for number, _ in found}) / TOP_K)
    random = np.random.default_rng(1)
    filtered = [
        check_filter(index, load, random.choice(count, size, replace=False).tolist())
        for size in (100, max(1, count // 100))
    ]
    removed = random.choice(count, BATCH, replace=False)
    _, remove_ms = timed(lambda: index.remove(removed.tolist()))
    _, add_ms = timed(lambda: index.add(removed.tolist(), keys[removed]))
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "index"
        _, save_ms = timed(lambda: save(index, path))
        size_mb = path.stat().st_size / 1e6
        loaded, load_ms = timed(lambda: make.load(load_index_file(path)[1]))
    assert len(loaded) == count
    p50, p99 = np.percentile(times, [50, 99])
    cells = (
        index.layout, f"{count:,}", f"{built - started:.1f}", f"{count / (built - trained):,.0f}",
        f"{p50:.2f} / {p99:.2f}", f"{np.mean(recalls):.4f}", f"{add_ms:.1f}", f"{remove_ms:.1f}",
        f"{filtered[0]:.2f}", f"{filtered[1]:.2f}", f"{ram:,.0f}", f"{size_mb:,.0f}",
        f"{save_ms / 1e3:.1f}", f"{load_ms / 1e3:.1f}",
    )  # fmt: skip
    say(f"| {' | '.join(cells)} |")


def check_filter(
    index: FlatIndex | CompressedIndex, load: Workload, allowed: Sequence[int]
) -> float:
    """Median milliseconds of a filtered search, each compared with the exact one."""
    times = []
    for query in load.queries[:20]:
        found, ms = timed(lambda query=query: index.search(query, TOP_K, allowed=allowed))  # type: ignore[misc]
        times.append(ms)
        scores = np.sort(load.keys[allowed] @ query)[::-1][:TOP_K]
        np.testing.assert_allclose([score for _, score in found], scores, atol=1e-4)
    return float(np.median(times))


def save(index: FlatIndex | CompressedIndex, path: Path) -> None:
    live = [(number, "") for number in index.ids().tolist()]
    save_index_file(
        path,
        index.dump(),
        layout=index.layout,
        fingerprint="benchmark",
        dim=index.dim,
        seq=1,
        live=live,
    )


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """What it returns, and the milliseconds it took."""
    started = time.perf_counter()
    done = work()
    return done, 1e3 * (time.perf_counter() - started)


def resident_mb() -> float:
    return rss_bytes(os.getpid()) / 1e6


def _unit(rows: FloatArray) -> FloatArray:
    unit: FloatArray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def _as_stored(keys: FloatArray) -> FloatArray:
    """Rounded as in a bf16 shard, in place: a million keys are 2.3 GB."""
    for start in range(0, len(keys), BLOCK):
        block = slice(start, start + BLOCK)
        keys[block] = keys[block].astype(BF16).astype(np.float32)
    return keys


if __name__ == "__main__":
    main()
