"""A server and a worker of a benchmark's own, started apart so that either can be left out."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from benchmarks.attempts import Address
from clients.cli.supervisor import free_port, local_url, start_paramem, stop_process

HOST = "127.0.0.1"
START_S = STOP_S = 60.0


@dataclass(frozen=True, slots=True)
class Server:
    address: Address
    process: psutil.Process
    http: httpx.Client

    def rss_mib(self) -> float:
        return float(self.process.memory_info().rss) / 2**20

    def gauge(self, name: str) -> float:
        found = re.search(rf"^{name} (\S+)$", self.http.get("/metrics").text, re.MULTILINE)
        assert found is not None, name
        return float(found[1])


@contextmanager
def serving(home: Path, environment: Mapping[str, str]) -> Iterator[Server]:
    """``paramem serve`` alone. Raises: SystemExit when it does not stop by itself."""
    port = free_port()
    place = ["--host", HOST, "--port", str(port), "--home", str(home)]
    process = start_paramem(["serve", *place], environment=environment)
    try:
        with httpx.Client(base_url=local_url(HOST, port), timeout=60, trust_env=False) as http:
            wait_until_loaded(http)
            yield Server(Address(HOST, port), psutil.Process(process.pid), http)
    finally:
        clean = stop_process(process, STOP_S)
    if not clean:
        raise SystemExit(f"the server ended with exit code {process.returncode}")


@contextmanager
def working(home: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """A worker beside it."""
    process = start_paramem(["worker", "--home", str(home)], environment=environment)
    try:
        yield
    finally:
        stop_process(process, STOP_S)


def wait_until_loaded(http: httpx.Client) -> None:
    """Raises: SystemExit when it takes too long."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        try:
            if http.get("/version").json()["engine"]:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise SystemExit("the server did not start")
