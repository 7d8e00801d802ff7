"""Gauges of the store and the engine, read when ``/metrics`` is scraped."""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from memory_store.records import StoreStats
from server.services import Services

FITS = {
    "fit_seconds": "Worker seconds",
    "fit_steps": "Gradient steps a passage",
    "fit_token_accuracy": "Share of tokens the LLM predicts from the memory",
}
LONGEST_AGE_S = 3600.0  # workers silent for longer are history
ALL = "*"  # no collection can have this name


class HouseCollector(Collector):
    """Gauges read from the store and the engine when they are scraped."""

    def __init__(self, services: Services, *, name_collections: bool) -> None:
        self._services = services
        self._name_collections = name_collections

    def describe(self) -> list[Metric]:
        return []  # registering must not read a store that is not open yet

    def collect(self) -> Iterator[Metric]:
        stats = self._services.store.stats()
        yield from self._queue(stats)
        yield from self._contents(stats)
        yield from self._engine()

    def _queue(self, stats: StoreStats) -> Iterator[Metric]:
        store = self._services.store
        yield _gauge("write_queue_depth", "Jobs queued and running.", stats.queued + stats.running)
        yield _gauge(
            "write_queue_oldest_age_seconds",
            "Age of the oldest queued job; 0 when none is.",
            stats.oldest_queued_age_s,
        )
        jobs = GaugeMetricFamily("paramem_jobs", "Jobs by status.", labels=["status"])
        for status in ("queued", "running", "dead"):
            jobs.add_metric([status], getattr(stats, status))
        yield jobs
        ended = CounterMetricFamily(
            "paramem_write_jobs", "Jobs ended, since the home was made.", labels=["status"]
        )
        for ended_status, count in stats.jobs_ended.items():
            ended.add_metric([str(ended_status)], count)
        yield ended
        for name, documentation in FITS.items():
            yield SummaryMetricFamily(
                f"paramem_{name}",
                f"{documentation} of a fit job, since the home was made.",
                count_value=stats.fit_jobs,
                sum_value=getattr(stats, name),
            )
        now = time.time()
        workers = store.workers(max_age_s=LONGEST_AGE_S)
        age_s = min((now - worker.heartbeat_at for worker in workers), default=float("inf"))
        yield _gauge(
            "worker_heartbeat_age_seconds", "Of the youngest heartbeat; +Inf without one.", age_s
        )

    def _contents(self, stats: StoreStats) -> Iterator[Metric]:
        store = self._services.store
        yield _gauge("documents", "Documents stored.", stats.documents)
        memories = GaugeMetricFamily(
            "paramem_memories", "Passage memories by collection.", labels=["collection"]
        )
        for name, count in self._memories(stats):
            memories.add_metric([name], count)
        yield memories
        num_bytes = GaugeMetricFamily(
            "paramem_store_bytes", "Bytes on disk by what they hold.", labels=["kind"]
        )
        for kind in ("shard", "text", "catalogue", "index"):
            num_bytes.add_metric([kind], getattr(stats, f"{kind}_bytes"))
        yield num_bytes
        yield _gauge("disk_free_bytes", "Free bytes under the home.", store.free_bytes())
        yield _counter("checksum_failures", "Codes that failed theirs.", stats.checksum_failures)
        yield _counter("index_rebuild", "Index rebuilds.", stats.index_rebuilds)
        yield _counter("shard_opens", "Shards opened.", stats.shard_opens)
        yield _counter(
            "shard_cache_hits", "Reads that found their shard open.", stats.shard_cache_hits
        )
        kept = self._services.candidates
        yield _counter("rerank_cache_hits", "Candidates ranked from memory.", kept.hits)
        yield _counter("rerank_cache_misses", "Candidates read to be ranked.", kept.misses)
        yield _gauge("rerank_cache_bytes", "Kept to rank candidates by.", kept.num_bytes)
        yield _gauge(
            "snapshot_age_seconds",
            "Of the last snapshot taken, wherever; +Inf without one.",
            stats.last_snapshot_age_s,
        )
        yield _gauge(
            "audit_age_seconds", "Of the last audit; +Inf without one.", stats.last_audit_age_s
        )
        yield _gauge("audit_problems", "Problems that the last audit left.", stats.audit_problems)

    def _memories(self, stats: StoreStats) -> Iterator[tuple[str, int]]:
        """Of every collection; where keys keep tenants apart, of all together: anyone may scrape,
        so that Prometheus needs no key."""
        if not self._name_collections:
            yield ALL, stats.memories
            return
        cursor: str | None = None
        while True:
            page = self._services.store.collections(cursor=cursor)
            yield from ((one.name, one.memories) for one in page.items)
            cursor = page.next_cursor
            if cursor is None:
                return

    def _engine(self) -> Iterator[Metric]:
        running, waiting = self._services.engine.load()
        ready = self._services.engine_state == "ready"
        yield _gauge("engine_ready", "1 while the model is loaded and answers.", float(ready))
        yield _gauge("num_requests_running", "Requests in the engine's batch.", running)
        yield _gauge("num_requests_waiting", "Requests waiting for a place in it.", waiting)
        yield _gauge(
            "queries_in_flight", "Queries being answered.", self._services.queries_in_flight
        )


def _gauge(name: str, documentation: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"paramem_{name}", documentation, value=value)


def _counter(name: str, documentation: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(f"paramem_{name}", documentation, value=value)
