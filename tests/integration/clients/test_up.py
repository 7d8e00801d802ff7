"""``paramem up``: what holds for the whole service, whatever is killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from clients import Client, DeltaEvent, DoneEvent, MemoriesEvent
from tests.integration.clients.conftest import Up, eventually, is_alive

QUESTION = "When do herons fish?"


def ask(url: str) -> str:
    with Client(url) as client:
        return client.query(QUESTION).answer


def write(url: str, text: str, document_id: str) -> None:
    with Client(url) as client:
        client.wait(client.write(text, id=document_id, mode="fast"), timeout_s=60)


def test_a_written_document_answers_streamed_and_still_does_after_a_restart(
    start_up: Callable[[], Up],
) -> None:
    first = start_up()
    write(first.url, "herons fish at dawn", "birds/heron.md")
    write(first.url, "otters sleep in kelp", "otter.md")
    with Client(first.url) as client, client.query_stream(QUESTION) as events:
        memories, *deltas, done = list(events)
    assert isinstance(memories, MemoriesEvent)
    assert isinstance(done, DoneEvent)
    assert memories.memories[0].document_id == "birds/heron.md"
    assert done.answer.memories == memories.memories
    pieces = [event.text for event in deltas if isinstance(event, DeltaEvent)]
    assert len(pieces) == len(deltas)
    assert "".join(pieces) == done.answer.answer
    children = first.children
    assert set(children) == {"serve", "worker"}
    assert first.stop() == 0
    assert not any(map(is_alive, children.values()))

    second = start_up()
    with Client(second.url) as client:
        again = client.query(QUESTION)
    assert again.answer == done.answer.answer
    assert again.memories == done.answer.memories


def test_a_killed_worker_comes_back_and_goes_on_writing(up: Up) -> None:
    killed = up.children["worker"]
    os.kill(killed, signal.SIGKILL)
    eventually("another worker runs", lambda: up.children.get("worker", killed) != killed)
    write(up.url, "herons fish at dawn", "heron")
    assert ask(up.url)
    assert "the worker ended with exit code -9" in up.log
    assert up.stop() == 0


def test_a_killed_server_ends_everything_with_an_error(up: Up) -> None:
    children = up.children
    os.kill(children["serve"], signal.SIGKILL)
    assert up.process.wait(60) == 1
    assert not is_alive(children["worker"])


def test_killing_the_supervisor_leaves_no_child_behind(up: Up) -> None:
    children = up.children
    up.process.kill()
    up.process.wait()
    for pid in children.values():
        eventually("the child is gone", lambda pid=pid: not is_alive(pid))  # type: ignore[misc]


def test_ctrl_c_is_as_clean_as_sigterm_and_the_url_was_announced(up: Up) -> None:
    eventually("the URL is announced", lambda: f"ready at {up.url}" in up.log)
    children = up.children
    assert up.stop(signal.SIGINT) == 0
    assert not any(map(is_alive, children.values()))


def test_a_port_in_use_is_said_and_nothing_stays_behind(
    up: Up, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from clients.cli.supervisor import start_paramem

    port = up.url.rpartition(":")[2]
    other = start_paramem(["up", "--port", port, "--home", str(tmp_path / "other")])
    assert other.wait(60) != 0
    assert port in capfd.readouterr().err
