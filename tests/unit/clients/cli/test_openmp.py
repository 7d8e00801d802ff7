"""How waiting threads wait is said before libgomp is loaded, and the operator has the last word."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from clients.cli.openmp import SPINS, sleep_while_waiting, spin_while_waiting

VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def test_a_server_spins_and_all_else_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # so that what follows is undone
        monkeypatch.delenv(name)
    sleep_while_waiting()
    assert [os.environ.get(name) for name in VARIABLES] == ["PASSIVE", None]
    spin_while_waiting()
    assert os.environ["GOMP_SPINCOUNT"] == SPINS


def test_what_the_operator_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, "7")
    sleep_while_waiting()
    spin_while_waiting()
    assert [os.environ[name] for name in VARIABLES] == ["7", "7"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_commands_are_there_before_libgomp_is() -> None:
    code = (
        "import clients.cli.app, clients.cli.rag, clients.cli.operate, sys; "
        "sys.exit('libgomp' in open('/proc/self/maps').read())"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False, timeout=60)
    assert done.returncode == 0
