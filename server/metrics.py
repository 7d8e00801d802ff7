"""What ``/metrics`` exposes, in a registry of its own per app (names: ``paramem_…``).

Counters and histograms are fed by the routes; everything the store knows is read at scrape time.
Ids of documents and tenants never become labels; the one label with names of users' making is
``paramem_memories{collection}``, and only where there are no keys.
"""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from server.engine.generator import GenerationChunk

STAGES = ("embed", "search", "select", "load", "queue", "expand", "prefill", "decode")
STAGE_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15)
QUERY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 5, 10, 30, 60, 120)


class Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # CPU seconds, resident bytes, descriptors
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
        stages = Histogram(
            "paramem_query_stage_seconds",
            "Stages of a query; select is embed and search.",
            ["stage"],
            buckets=STAGE_BUCKETS,
            registry=self.registry,
        )
        self._stages = {stage: stages.labels(stage) for stage in STAGES}
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
        self._token_seconds = Histogram(
            "paramem_inter_token_latency_seconds",
            "Mean time between two tokens of an answer.",
            buckets=STAGE_BUCKETS,
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
        stages = dict(timings_ms)
        if "embed" in stages and "select" in stages:
            stages["search"] = max(0.0, stages["select"] - stages["embed"])
        for stage, seconds in self._stages.items():
            if stage in stages:
                seconds.observe(stages[stage] / 1e3)
        self._ttft.observe(timings_ms["ttft"] / 1e3)
        self._e2e.observe(timings_ms["total"] / 1e3)
        if last.completion_tokens > 1:
            after_first_s = (timings_ms["total"] - timings_ms["ttft"]) / 1e3
            self._token_seconds.observe(after_first_s / (last.completion_tokens - 1))
        self._success.labels(last.finish_reason or "unknown").inc()
        self._prompt_tokens.inc(last.prompt_tokens)
        self._memory_slots.inc(last.memory_slots)
        self._generation_tokens.inc(last.completion_tokens)

    def render(self) -> bytes:
        """The text format. Reads the store: call it in a thread."""
        return generate_latest(self.registry)
