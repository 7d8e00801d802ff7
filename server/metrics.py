"""What ``/metrics`` exposes, in a registry of its own per app (names: ``paramem_…``).

Counters and histograms are fed by the routes; everything the store knows is read at scrape time.
Ids of documents and tenants never become labels; the one label with names of users' making is
``paramem_memories{collection}``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from memory_store.records import StoreStats
from server.engine.generator import GenerationChunk

if TYPE_CHECKING:
    from server.services import Services

STAGES = ("embed", "select", "load", "queue", "expand", "prefill", "decode")
LONGEST_AGE_S = 3600.0  # workers silent for longer are history
STAGE_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15)
QUERY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 5, 10, 30, 60, 120)


class Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._http = Counter(
            "paramem_http_requests_total",
            "Requests answered.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self._http_seconds = Histogram(
            "paramem_http_request_seconds",
            "From the request's headers to the end of its answer.",
            ["route"],
            buckets=QUERY_BUCKETS,
            registry=self.registry,
        )
        self._stages = Histogram(
            "paramem_query_stage_seconds",
            "Stages of a query; embed is part of select.",
            ["stage"],
            buckets=STAGE_BUCKETS,
            registry=self.registry,
        )
        self._ttft = Histogram(
            "paramem_query_ttft_seconds",
            "From a query's arrival to its first token.",
            buckets=QUERY_BUCKETS,
            registry=self.registry,
        )
        self._e2e = Histogram(
            "paramem_query_e2e_seconds",
            "From a query's arrival to its last token.",
            buckets=QUERY_BUCKETS,
            registry=self.registry,
        )
        self._success = Counter(
            "paramem_request_success_total",
            "Answers finished.",
            ["finished_reason"],
            registry=self.registry,
        )
        self._prompt_tokens = Counter(
            "paramem_prompt_tokens_total",
            "Prompt positions, memory slots counted as one each.",
            registry=self.registry,
        )
        self._memory_slots = Counter(
            "paramem_memory_slots_total", "Memory slots read.", registry=self.registry
        )
        self._generation_tokens = Counter(
            "paramem_generation_tokens_total", "Tokens generated.", registry=self.registry
        )

    def observe_http(self, method: str, route: str, status: int, seconds: float) -> None:
        self._http.labels(method, route, str(status)).inc()
        self._http_seconds.labels(route).observe(seconds)

    def observe_answer(self, last: GenerationChunk, timings_ms: Mapping[str, float]) -> None:
        """Count a finished answer; ``last`` carries its totals."""
        for stage in STAGES:
            if stage in timings_ms:
                self._stages.labels(stage).observe(timings_ms[stage] / 1e3)
        self._ttft.observe(timings_ms["ttft"] / 1e3)
        self._e2e.observe(timings_ms["total"] / 1e3)
        self._success.labels(last.finish_reason or "unknown").inc()
        self._prompt_tokens.inc(last.prompt_tokens)
        self._memory_slots.inc(last.memory_slots)
        self._generation_tokens.inc(last.completion_tokens)

    def render(self) -> bytes:
        """The text format. Reads the store: call it in a thread."""
        return generate_latest(self.registry)


class HouseCollector(Collector):
    """Gauges read from the store and the engine when they are scraped."""

    def __init__(self, services: Services) -> None:
        self._services = services

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
        cursor: str | None = None
        while True:
            page = store.collections(cursor=cursor)
            for collection in page.items:
                memories.add_metric([collection.name], collection.memories)
            cursor = page.next_cursor
            if cursor is None:
                break
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

    def _engine(self) -> Iterator[Metric]:
        running, waiting = self._services.engine.load()
        yield _gauge("num_requests_running", "Requests in the engine's batch.", running)
        yield _gauge("num_requests_waiting", "Requests waiting for a place in it.", waiting)
        yield _gauge(
            "queries_in_flight", "Queries being answered.", self._services.queries_in_flight
        )


def _gauge(name: str, documentation: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"paramem_{name}", documentation, value=value)


def _counter(name: str, documentation: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(f"paramem_{name}", documentation, value=value)
