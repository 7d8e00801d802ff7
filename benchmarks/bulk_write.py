"""Queries beside a bulk write: time to first token with an idle worker and with a busy one.

    python -m benchmarks.bulk_write --append

One server for each niceness of the worker and each share of its time that it does not wait for
queries. The same questions are asked one at a time, first of an
idle server, then while many documents are being written as ``fast`` memories and the worker always
has more to do.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import tempfile
import time
from pathlib import Path

from benchmarks.contexts import long_documents
from benchmarks.endpoints import COLLECTION, SLO, demo_set
from benchmarks.results import RESULTS, publish
from clients.calls import QueryOptions
from clients.client import Client
from clients.demo import demo_server
from clients.documents import Document
from clients.evaluation.data import QuestionSet
from clients.loadtest.endpoint import prepare_endpoint
from clients.loadtest.measure import Figures, latency_ratios
from clients.loadtest.replay import Replayed, replay_on
from clients.loadtest.schedule import Schedule

NICE = "PARAMEM_WORKER_NICE"
SHARE = "PARAMEM_WRITE_SHARE"
BACKLOG = "backlog"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=24)
    parser.add_argument("--documents", type=int, default=600, help="queued")
    parser.add_argument("--nice", type=int, nargs="+", default=[10])
    parser.add_argument("--shares", type=float, nargs="+", default=[1, 0.5])
    parser.add_argument("--append", action="store_true", help=f"append to {RESULTS.name}")
    arguments = parser.parse_args()
    lines = [
        f"\n## Queries beside a bulk write, {time.strftime('%Y-%m-%d')}\n",
        f"{os.cpu_count()} cores; K = 5, 16 new tokens, one request at a time, n = "
        f"{arguments.requests}; ratios of medians with 95 % bootstrap intervals.\n",
        "| worker's niceness | share | worker | TTFT p50 / p99 ms | e2e p50 / p99 ms "
        "| documents/s written | TTFT ratio | e2e ratio |",
        "|--:|--:|---|--:|--:|--:|--:|--:|",
    ]
    schedule = Schedule(arguments.requests, warmup=2, rate=None, concurrency=1)
    for nice, share in itertools.product(arguments.nice, arguments.shares):
        os.environ |= {NICE: str(nice), SHARE: f"{share:g}"}
        idle, busy, rate = measure(schedule, arguments.documents)
        ratios = latency_ratios(idle, busy)
        told = f"{ratios['ttft']:.2f} | {ratios['e2e']:.2f}"
        lines.append(f"| {nice} | {share:g} | idle | {latencies(idle)} | | | |")
        lines.append(f"| {nice} | {share:g} | writing | {latencies(busy)} | {rate} | {told} |")
    publish(lines, append=arguments.append)


def measure(schedule: Schedule, documents: int) -> tuple[Replayed, Replayed, str]:
    """Answers of an idle server, of one that writes, and the documents a second it wrote."""
    questions = demo_set()
    with (
        tempfile.TemporaryDirectory() as home,
        demo_server(Path(home), lambda _what: None) as url,
        Client(url) as client,
    ):
        prepare_endpoint("memory", url, questions.documents, COLLECTION, lambda *_: None)
        idle = ask(url, schedule, questions)
        client.put_collection(BACKLOG)
        texts = [document.text for document in long_documents()]
        queued = [
            Document(text=texts[n % len(texts)], id=str(n), collection=BACKLOG, mode="fast")
            for n in range(documents)
        ]
        for _ in client.write_many(queued):
            pass
        before, started = written(client), time.monotonic()
        busy = ask(url, schedule, questions)
        done, seconds = written(client) - before, time.monotonic() - started
        ran_out = written(client) >= documents
        return idle, busy, "ran out of work" if ran_out else f"{done / seconds:.2f}"


def ask(url: str, schedule: Schedule, questions: QuestionSet) -> Replayed:
    options: QueryOptions = {"collection": COLLECTION, "top_k": 5, "max_new_tokens": 16}
    return asyncio.run(replay_on(url, schedule, questions, options))


def written(client: Client) -> int:
    """Documents of the backlog that are memories by now: each is one passage."""
    found = {collection.name: collection.memories for collection in client.collections().items}
    return found[BACKLOG]


def latencies(replayed: Replayed) -> str:
    figures = Figures.of(replayed, SLO)
    ttft, e2e = figures.latency_ms["ttft"], figures.latency_ms["e2e"]
    return (
        f"{ttft[50].value:.0f} / {ttft[99].value:.0f} | {e2e[50].value:.0f} / {e2e[99].value:.0f}"
    )


if __name__ == "__main__":
    main()
