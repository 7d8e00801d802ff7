"""The server and the worker of a soak: started, killed with SIGKILL, started again."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from clients.cli.supervisor import free_port, local_url, start_paramem, stop_process
from clients.client import Client
from clients.errors import ParamemError
from clients.results import Readiness
from clients.retries import NO_RETRIES

HOST = "127.0.0.1"
SERVER, WORKER, COMPACTOR = "server", "worker", "compactor"
READY_S = 120.0
STOP_S = 60.0
LOOK_EVERY_S = 0.02
UNABLE = frozenset({"absent", "loading", "stopping"})
ENVIRONMENT = {
    "PARAMEM_ENGINE": "dummy",
    "PARAMEM_WRITER": "dummy",
    "PARAMEM_SLOTS": "4",
    "PARAMEM_Z_DIM": "64",
    # a killed worker's jobs come back soon, and however often it is killed none is given up
    "PARAMEM_LEASE_S": "2",
    "PARAMEM_HEARTBEAT_S": "0.2",
    "PARAMEM_POLL_S": "0.02",
    "PARAMEM_MAX_ATTEMPTS": "1000000",
    "PARAMEM_DISK_FLOOR_BYTES": "0",
    "PARAMEM_LOG_LEVEL": "WARNING",
}


class SoakProcessError(ParamemError):
    """A process ended by itself, or never became ready."""


@dataclass(slots=True)
class Lifetime:
    """One process from start to kill."""

    kind: str
    process: subprocess.Popen[bytes]
    started: float  # time.monotonic()
    ready_s: float | None = None
    first_rss_bytes: int = 0  # when it became ready
    last_rss_bytes: int = 0  # just before its end

    def become_ready(self) -> None:
        self.ready_s = time.monotonic() - self.started
        self.first_rss_bytes = self.last_rss_bytes = rss_bytes(self.process.pid)

    def about_to_end(self) -> None:
        self.last_rss_bytes = rss_bytes(self.process.pid)


class Processes:
    """Call from the main thread: the children end with the thread that started them."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.log_path = home / "soak.log"
        self.ended: list[Lifetime] = []
        self.kills: Counter[str] = Counter()
        self._port = free_port(HOST)
        self._running: dict[str, Lifetime] = {}
        self.client = Client(self.url, retries=NO_RETRIES, timeout_s=READY_S)

    @property
    def url(self) -> str:
        return local_url(HOST, self._port)

    def __enter__(self) -> Self:
        self.home.mkdir(parents=True, exist_ok=True)
        self.start(SERVER)
        self.start(WORKER)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for lifetime in self._running.values():
            stop_process(lifetime.process, STOP_S if error is None else 0.0)
        self.client.close()

    def start(self, kind: str) -> None:
        command = {
            SERVER: ["serve", "--host", HOST, "--port", str(self._port)],
            WORKER: ["worker"],
            COMPACTOR: ["compact"],
        }[kind]
        self._running[kind] = Lifetime(kind, self._spawn(command), time.monotonic())

    def kill(self, kinds: Sequence[str]) -> None:
        """SIGKILL these, then start server and worker again."""
        for kind in kinds:
            lifetime = self._running[kind]
            lifetime.about_to_end()
            lifetime.process.kill()
        for kind in kinds:
            self._end(kind, -signal.SIGKILL)
            self.kills[kind] += 1
            if kind != COMPACTOR:
                self.start(kind)

    def compact_and_kill(self, after_s: float) -> None:
        """Start a compaction and kill it, unless it is done by then."""
        self.start(COMPACTOR)
        process = self._running[COMPACTOR].process
        try:
            process.wait(after_s)
        except subprocess.TimeoutExpired:
            self.kill([COMPACTOR])
        else:
            self._end(COMPACTOR, 0)

    def await_ready(self) -> None:
        """Until the server serves and a worker beats that was started since the last kill."""
        deadline = time.monotonic() + READY_S
        while not self._look():
            if time.monotonic() > deadline:
                raise SoakProcessError(f"not ready after {READY_S:g} s; see {self.log_path}")
            time.sleep(LOOK_EVERY_S)

    def restart(self) -> None:
        """End both with SIGTERM and start fresh ones."""
        for kind in (SERVER, WORKER):
            lifetime = self._running[kind]
            lifetime.about_to_end()
            lifetime.process.terminate()
        for kind in (SERVER, WORKER):
            self._end(kind, 0)
            self.start(kind)
        self.await_ready()

    def rss_bytes(self, kind: str) -> int:
        """Of the server or worker that runs now."""
        return rss_bytes(self._running[kind].process.pid)

    def run_command(self, *arguments: str) -> tuple[int, str]:
        """``paramem ARGUMENTS --home HOME`` in a process of its own: exit code and stdout."""
        out = self.home / "soak-command.out"
        with out.open("wb") as log:
            process = start_paramem(
                [*arguments, "--home", str(self.home)], environment=_environment(), log=log
            )
            return process.wait(), out.read_text(encoding="utf-8")

    def _look(self) -> bool:
        """Whether both are ready. Raises: SoakProcessError when one ended by itself."""
        server, worker = self._running[SERVER], self._running[WORKER]
        for lifetime in (server, worker):
            if (code := lifetime.process.poll()) is not None:
                raise SoakProcessError(
                    f"the {lifetime.kind} ended by itself with exit code {code}; "
                    f"see {self.log_path}"
                )
        try:
            readiness = self.client.ready()
        except ParamemError:
            return False
        if server.ready_s is None and readiness.checks["engine"]["ok"]:
            server.become_ready()
        if worker.ready_s is None and _beats_since(readiness, worker.started):
            worker.become_ready()
        return server.ready_s is not None and worker.ready_s is not None

    def _end(self, kind: str, expected: int) -> None:
        lifetime = self._running.pop(kind)
        code = lifetime.process.wait(STOP_S)
        self.ended.append(lifetime)
        if code != expected:
            raise SoakProcessError(
                f"the {kind} ended with exit code {code}, not {expected}; see {self.log_path}"
            )

    def _spawn(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        arguments = [*command, "--home", str(self.home)]
        with self.log_path.open("ab") as log:
            return start_paramem(arguments, environment=_environment(), log=log)


def pick_victims(random_: random.Random) -> list[str]:
    """Which processes die next; both at once is what a power cut looks like."""
    return random_.choices(
        [[SERVER], [WORKER], [SERVER, WORKER], [COMPACTOR]], weights=[3, 3, 4, 1]
    )[0]


def rss_bytes(pid: int) -> int:
    """Resident memory of a process; 0 where there is no /proc, or no such process."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    except (OSError, IndexError):
        return 0
    return int(pages) * os.sysconf("SC_PAGESIZE")


def _beats_since(readiness: Readiness, started: float) -> bool:
    worker = readiness.checks["worker"]
    age_s = worker.get("heartbeat_age_s")
    return (
        age_s is not None and worker["state"] not in UNABLE and age_s < time.monotonic() - started
    )


def _environment() -> Mapping[str, str]:
    return os.environ | ENVIRONMENT
