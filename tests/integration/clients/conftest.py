"""A whole paramem: server and worker as real processes, with dummy engine and writer."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from clients import Client, ParamemError
from clients.cli.supervisor import free_port, local_url, start_paramem

SOON_S = 60.0
SETTINGS = {
    "PARAMEM_ENGINE": "dummy",
    "PARAMEM_WRITER": "dummy",
    "PARAMEM_POLL_S": "0.05",
    "PARAMEM_HEARTBEAT_S": "0.2",
    "PARAMEM_LEASE_S": "5",
}


def eventually(what: str, look: Callable[[], bool]) -> None:
    """Wait until ``look`` is true; fail, naming ``what``, when that never happens."""
    deadline = time.monotonic() + SOON_S
    while not look():
        if time.monotonic() > deadline:
            pytest.fail(f"never came true: {what}")
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    """Whether a process runs. One that only waits to be reaped does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def children_of(pid: int) -> dict[str, int]:
    """Process ids of the direct children, by the paramem command they run."""
    found = {}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        words = Path(f"/proc/{child}/cmdline").read_text().split("\0")
        if "clients.cli.app" in words:
            found[words[words.index("clients.cli.app") + 1]] = int(child)
    return found


@dataclass
class Up:
    """A running ``paramem up``."""

    process: subprocess.Popen[bytes]
    url: str
    log_path: Path

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    @property
    def children(self) -> dict[str, int]:
        return children_of(self.process.pid)

    def wait_ready(self) -> None:
        def ready() -> bool:
            assert self.process.poll() is None, self.log
            try:
                with Client(self.url) as client:
                    return client.ready().ready
            except ParamemError:
                return False

        eventually("paramem is ready", ready)

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(SOON_S)


@pytest.fixture
def start_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Up]]:
    """Starts ``paramem up`` on the test's home, any number of times one after the other."""
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    started: list[Up] = []

    def start() -> Up:
        port = free_port()
        log_path = tmp_path / f"up-{len(started)}.log"
        place = ["--host", "127.0.0.1", "--port", str(port), "--home", str(tmp_path / "home")]
        with log_path.open("wb") as log:
            process = start_paramem(["up", *place], environment=os.environ, log=log)
        up = Up(process, local_url("127.0.0.1", port), log_path)
        started.append(up)
        monkeypatch.setenv("PARAMEM_URL", up.url)
        up.wait_ready()
        return up

    yield start
    for up in started:
        if up.process.poll() is None:
            left = up.children.values()
            up.process.kill()
            up.process.wait()
            for pid in filter(is_alive, left):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def up(start_up: Callable[[], Up]) -> Up:
    return start_up()
