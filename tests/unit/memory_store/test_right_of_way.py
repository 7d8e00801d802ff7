"""Queries that other processes of the home can see."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from memory_store.right_of_way import RightOfWay

HOLD = """
import sys
from pathlib import Path
from memory_store.right_of_way import RightOfWay
held = RightOfWay(Path(sys.argv[1]))
held.take()
print("taken", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".queries"


def test_one_that_is_taken_is_seen_until_its_last_query_is_answered(path: Path) -> None:
    server, worker = RightOfWay(path), RightOfWay(path)
    assert not worker.is_taken()
    server.take()
    server.take()
    assert worker.is_taken()
    assert server.is_taken()
    server.give_back()
    assert worker.is_taken()
    server.give_back()
    assert not worker.is_taken()
    assert not server.is_taken()


def test_servers_take_it_together(path: Path) -> None:
    one, other, worker = RightOfWay(path), RightOfWay(path), RightOfWay(path)
    one.take()
    other.take()
    one.give_back()
    assert worker.is_taken()
    other.give_back()
    assert not worker.is_taken()


def test_looking_at_it_leaves_it_free(path: Path) -> None:
    worker, server, another = RightOfWay(path), RightOfWay(path), RightOfWay(path)
    assert not worker.is_taken()
    server.take()
    assert another.is_taken()


def test_a_killed_process_gives_it_back(path: Path) -> None:
    worker = RightOfWay(path)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"taken\n"
        assert worker.is_taken()
        server.kill()
        server.wait()
        assert not worker.is_taken()
