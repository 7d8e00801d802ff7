from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from clients.cli.supervisor import free_port, local_url, stop_process

OBEDIENT = "import time; print('up', flush=True); time.sleep(60)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "print('up', flush=True); time.sleep(60)"
)


def start(code: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout as stdout:
        assert stdout.readline() == b"up\n"
    return process


def test_a_process_that_heeds_sigterm_ends_by_itself() -> None:
    process = start(OBEDIENT)
    assert stop_process(process, grace_s=30)
    assert process.poll() is not None


def test_a_process_that_does_not_is_killed_after_the_grace() -> None:
    process = start(STUBBORN)
    assert not stop_process(process, grace_s=0.1)
    assert process.poll() is not None


def test_a_process_that_has_failed_is_not_a_clean_stop() -> None:
    process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    process.wait()
    assert not stop_process(process, grace_s=1)


def test_a_free_port_can_be_listened_on() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", free_port()))


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://[::1]:80"),
        ("example.org", "http://example.org:80"),
    ],
)
def test_the_url_is_one_this_machine_can_reach(host: str, url: str) -> None:
    assert local_url(host, 80) == url
