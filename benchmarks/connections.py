"""Idle connections: what thousands of clients that say nothing cost a running server.

``python -m benchmarks.connections [--idle 10000]``: a server of its own (dummy engine), the
connections, questions asked beside them, and when the last of them is cut off.
"""

from __future__ import annotations

import argparse
import os
import resource
import select
import socket
import statistics
import tempfile
import time
from pathlib import Path

import httpx

from benchmarks.command import say
from benchmarks.server import serving

QUESTIONS = 20
OWN_DESCRIPTORS = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--idle", type=int, default=10_000)
    idle = parser.parse_args().idle
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if idle > limit - OWN_DESCRIPTORS:
        raise SystemExit(f"{idle} connections need more descriptors than {limit}: raise ulimit -n")
    with tempfile.TemporaryDirectory() as home:
        measure(Path(home), idle)


def measure(home: Path, idle: int) -> None:
    quiet = {"PARAMEM_ENGINE": "dummy", "PARAMEM_LOG_LEVEL": "WARNING"}
    with serving(home, os.environ | quiet) as server:
        before, quiet_ms = server.rss_mib(), ask(server.http)
        started = time.perf_counter()
        address = (server.address.host, server.address.port)
        held = [socket.create_connection(address) for _ in range(idle)]
        opened_s = time.perf_counter() - started
        beside_ms = ask(server.http)
        grown = server.rss_mib() - before
        left = still_open(held)
        for connection in held:
            connection.close()
    say(f"{idle} idle connections opened in {opened_s:.1f} s, {left} still held")
    say(f"server memory: +{grown:.0f} MiB ({1024 * grown / idle:.1f} KiB each)")
    say(f"query p50: {quiet_ms:.1f} ms without them, {beside_ms:.1f} ms beside them")


def ask(http: httpx.Client) -> float:
    """Median milliseconds of a question."""
    times = []
    for _ in range(QUESTIONS):
        started = time.perf_counter()
        http.post("/query", json={"query": "x", "max_new_tokens": 1}).raise_for_status()
        times.append(1e3 * (time.perf_counter() - started))
    return statistics.median(times)


def still_open(connections: list[socket.socket]) -> int:
    """Those that the server has not closed: nothing to read on them, not even an end."""
    poll = select.poll()
    for connection in connections:
        poll.register(connection, select.POLLIN)
    return len(connections) - len(poll.poll(0))


if __name__ == "__main__":
    main()
