"""What the server itself costs: answers a second of an engine without a model.

    python -m benchmarks.requests --append

Kept-alive connections to a server with ten documents and the dummy engine, answers not streamed.
They ask as soon as they have an answer, which finds what the server can do, and then at a rate
below that (Poisson; latency from the intended time), which finds how long an answer takes. By hand
on asyncio's protocols, since a client library would cost more than the server. Server and clients
share the machine, whose own unevenness is told beside: how long a loop of Python takes that is as
long as a round of 64 answers.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.attempts import Address
from benchmarks.results import RESULTS, publish
from benchmarks.server import serving, working
from clients import Client

ENVIRONMENT = {"PARAMEM_ENGINE": "dummy", "PARAMEM_WRITER": "dummy", "PARAMEM_LOG_LEVEL": "WARNING"}
DOCUMENTS = 10
TOP_K, NEW_TOKENS = 5, 8
QUESTION = "What is the ferry to Tolvaig called?"
CONTEXTS = ("memory", "none")
CONTENT_LENGTH = b"content-length:"
LOOP_S = 0.016  # as 64 connections wait for an answer where there are 4,000 a second


class Asker(asyncio.Protocol):
    """One connection that asks until it is time to stop."""

    def __init__(self, request: bytes, stop_at: float, pause: Callable[[], float] | None) -> None:
        """``pause``: seconds from one question to the next, however long its answer takes; None =
        until the answer is there."""
        self._request = request
        self._stop_at = stop_at
        self._pause = pause
        self._received = b""
        self._due = time.perf_counter()  # when the question is to be asked
        self.seconds: list[float] = []  # of each answer
        self.failed = 0
        self.done = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._ask()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end or len(body) < _content_length(head):
            return
        self.seconds.append(time.perf_counter() - self._due)
        self.failed += not head.startswith(b"HTTP/1.1 200")
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        self.failed += exc is not None
        self.done.set()

    def _ask(self) -> None:
        self._received = b""
        now = time.perf_counter()
        self._due = now if self._pause is None else self._due + self._pause()
        if self._due <= now:
            self._send()
        else:
            asyncio.get_running_loop().call_later(self._due - now, self._send)

    def _send(self) -> None:
        if time.perf_counter() < self._stop_at:
            self._transport.write(self._request)
        else:
            self._transport.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--rates", type=float, nargs="+", default=[1000, 1500], help="a second")
    parser.add_argument("--seconds", type=float, default=10, help="for each row")
    parser.add_argument("--append", action="store_true", help=f"append to {RESULTS.name}")
    arguments = parser.parse_args()
    lines = [
        f"\n## Server overhead, {time.strftime('%Y-%m-%d')}\n",
        f"{os.cpu_count()} cores shared by server and clients, load average "
        f"{os.getloadavg()[0]:.1f} before; dummy engine, {DOCUMENTS} documents, K = {TOP_K}, "
        f"{NEW_TOKENS} new tokens, not streamed, kept-alive connections. Command: `python -m "
        "benchmarks.requests`.\n",
        "| context | connections | asked a second | answers | a second | p50 / p99 ms | failed |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    loads = [(number, None) for number in arguments.concurrency]
    loads += [(max(arguments.concurrency), rate) for rate in arguments.rates]
    with tempfile.TemporaryDirectory() as home:
        before = loop_ms(arguments.seconds)
        lines += measure(Path(home), loads, arguments.seconds)
    after = loop_ms(arguments.seconds)
    lines.append(
        "\nThe machine alone, a loop of Python again and again: p50 / p99 "
        f"{told(before)} ms before, {told(after)} ms after."
    )
    publish(lines, append=arguments.append)


def measure(home: Path, loads: Sequence[tuple[int, float | None]], seconds: float) -> list[str]:
    """Rows of the table. ``loads``: connections, and how often all of them together ask."""
    rows = []
    environment = {**os.environ, **ENVIRONMENT}
    with serving(home, environment) as server:
        with working(home, environment), Client(str(server.http.base_url)) as client:
            for number in range(DOCUMENTS):
                job = client.write(f"Ferry {number} leaves at {number}.", mode="fast")
                client.wait(job.job_id)
        for context in CONTEXTS:
            for connections, rate in loads:
                answers, failed = asyncio.run(
                    ask(server.address, context, connections, rate, seconds)
                )
                asked = "as answered" if rate is None else f"{rate:,.0f}"
                rows.append(
                    f"| {context} | {connections} | {asked} | {len(answers):,} | "
                    f"{len(answers) / seconds:,.0f} | {told([1e3 * s for s in answers])} "
                    f"| {failed} |"
                )
    return rows


async def ask(
    address: Address, context: str, connections: int, rate: float | None, seconds: float
) -> tuple[list[float], int]:
    """Seconds of each answer, and how many failed. ``rate``: questions a second, all together."""
    body = json.dumps(
        {"query": QUESTION, "top_k": TOP_K, "max_new_tokens": NEW_TOKENS, "context": context}
    )
    request = (
        f"POST /query HTTP/1.1\r\nHost: {address.host}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    ).encode()
    stop_at = time.perf_counter() + seconds
    loop = asyncio.get_running_loop()
    pause = None
    if rate is not None:
        pause = partial(random.Random(0).expovariate, rate / connections)
    askers = [Asker(request, stop_at, pause) for _ in range(connections)]
    for asker in askers:
        await loop.create_connection(lambda asker=asker: asker, address.host, address.port)  # type: ignore[misc]
    await asyncio.gather(*(asker.done.wait() for asker in askers))
    answers = [took for asker in askers for took in asker.seconds]
    return answers, sum(asker.failed for asker in askers)


def loop_ms(seconds: float) -> list[float]:
    """Milliseconds that a loop of fixed length takes, measured for so many seconds."""
    turns = 10_000
    while _loop_s(turns) < LOOP_S:
        turns += turns // 10
    took: list[float] = []
    stop_at = time.perf_counter() + seconds
    while time.perf_counter() < stop_at:
        took.append(1e3 * _loop_s(turns))
    return took


def _loop_s(turns: int) -> float:
    started = time.perf_counter()
    for _ in range(turns):
        pass
    return time.perf_counter() - started


def told(values: Sequence[float]) -> str:
    """p50 / p99"""
    half, most = np.percentile(values, [50, 99])
    return f"{half:.1f} / {most:.1f}"


def _content_length(head: bytes) -> int:
    lowered = head.lower()
    start = lowered.index(CONTENT_LENGTH) + len(CONTENT_LENGTH)
    return int(lowered[start:].partition(b"\r\n")[0])


if __name__ == "__main__":
    main()
