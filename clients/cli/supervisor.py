"""The server and the worker as child processes of one command.

A worker that dies comes back, after a pause that doubles while it keeps dying. A server that
dies ends everything: without it nobody can be told. SIGTERM, SIGINT or SIGHUP drain both; a
second one kills them. Whatever kills the supervisor takes its children along (Linux).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import IO

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
HEALTHY_S = 60.0
LOOK_EVERY_S = 0.1
PROBE_EVERY_S = 0.5
CLEAN_EXITS = frozenset({0, -signal.SIGTERM, 128 + signal.SIGTERM})
PR_SET_PDEATHSIG = 1

# Looked up before any fork: between fork and exec nothing may be imported.
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def start_paramem(
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    log: IO[bytes] | None = None,
) -> subprocess.Popen[bytes]:
    """Start ``paramem ARGUMENTS`` in its own session, so that Ctrl-C reaches only its parent.

    It gets SIGTERM when the calling thread ends, so call from the main one. ``log`` takes its
    stdout and stderr.
    """
    parent = os.getpid()

    def die_with_parent() -> None:
        if _libc is not None:
            _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:  # it died before the line above
                os._exit(1)

    return subprocess.Popen(
        [sys.executable, "-P", "-m", "clients.cli.app", *arguments],
        env=dict(environment) if environment is not None else None,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
        preexec_fn=die_with_parent,
    )


def stop_process(process: subprocess.Popen[bytes], grace_s: float) -> bool:
    """SIGTERM, then SIGKILL after ``grace_s``. Returns whether it ended by itself."""
    if process.poll() is None:
        process.terminate()
    try:
        return process.wait(grace_s) in CLEAN_EXITS
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False


def free_port(host: str = "127.0.0.1") -> int:
    """A port nobody listens on right now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def local_url(host: str, port: int) -> str:
    """The address under which this machine reaches a server that listens on ``host``."""
    reachable = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"


class Supervisor:
    """Runs one server and one worker until told to stop. Call from the main thread."""

    def __init__(
        self,
        *,
        host: str,
        port: int,
        home: Path,
        grace_s: float,
        announce: Callable[[str], None],
        server: Sequence[str],
        worker: Sequence[str],
    ) -> None:
        """``server``, ``worker``: the commands they are, without the place."""
        self._url = local_url(host, port)
        self._server = [*server, "--host", host, "--port", str(port), "--home", str(home)]
        self._worker = [*worker, "--home", str(home)]
        self._grace_s = grace_s
        self._announce = announce
        self._signals = 0
        self._pause_s = FIRST_PAUSE_S

    def run(self) -> int:
        """Returns the exit code: 0 after a clean drain, 1 when something had to be killed,
        the server's own when it died."""
        with self._signals_counted():
            server = start_paramem(self._server)
            worker: subprocess.Popen[bytes] | None = self._start_worker()
            try:
                worker = self._watch(server, worker)
            finally:
                died = server.poll()
                clean = self._stop([server, *([worker] if worker else [])])
        if died is not None and not self._signals:
            self._announce(f"the server ended with exit code {died}")
            return died if died > 0 else 1
        return 0 if clean else 1

    def _watch(
        self, server: subprocess.Popen[bytes], worker: subprocess.Popen[bytes] | None
    ) -> subprocess.Popen[bytes] | None:
        """Until a signal or the server's end. Returns the worker that runs then, if any."""
        ready = False
        started = last_probe = time.monotonic()
        restart_at = 0.0
        while not self._signals and server.poll() is None:
            time.sleep(LOOK_EVERY_S)
            now = time.monotonic()
            if worker is not None and worker.poll() is not None:
                if now - started > HEALTHY_S:
                    self._pause_s = FIRST_PAUSE_S
                self._announce(
                    f"the worker ended with exit code {worker.returncode}; "
                    f"starting another in {self._pause_s:g} s"
                )
                worker, restart_at = None, now + self._pause_s
                self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
            elif worker is None and now >= restart_at:
                worker, started = self._start_worker(), now
            if not ready and now - last_probe >= PROBE_EVERY_S:
                ready, last_probe = _is_ready(self._url), now
                if ready:
                    self._announce(f"paramem is ready at {self._url} (docs: {self._url}/docs)")
        return worker

    def _start_worker(self) -> subprocess.Popen[bytes]:
        return start_paramem(self._worker)

    def _stop(self, processes: Sequence[subprocess.Popen[bytes]]) -> bool:
        """Drain all at the same time; whether all ended by themselves."""
        running = [process for process in processes if process.poll() is None]
        for process in running:
            process.terminate()
        signals_before = self._signals
        deadline = time.monotonic() + self._grace_s
        while any(process.poll() is None for process in running):
            if time.monotonic() >= deadline or self._signals > signals_before:
                break
            time.sleep(LOOK_EVERY_S / 2)
        stuck = [process for process in running if process.poll() is None]
        for process in stuck:
            process.kill()
            process.wait()
        return all(process.returncode in CLEAN_EXITS for process in running)

    @contextlib.contextmanager
    def _signals_counted(self) -> Iterator[None]:
        def handle(_number: int, _frame: FrameType | None) -> None:
            self._signals += 1

        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        before = {number: signal.signal(number, handle) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _is_ready(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url}/readyz", timeout=1.0) as answer:
            return bool(answer.status == 200)
    except OSError:  # URLError and HTTPError are OSErrors
        return False
