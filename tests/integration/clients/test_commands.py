"""The commands against a real server, and the operator's on a home nobody runs in."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from clients.cli.app import app
from clients.cli.supervisor import start_paramem
from memory_store import MemorySpec, MemoryStore, WriteRequest
from tests.integration.clients.conftest import SETTINGS, Up, children_of, eventually, is_alive
from tests.unit.clients.evaluation.tiny_set import write_tiny_set


def paramem(*arguments: str) -> Result:
    result = CliRunner().invoke(app, list(arguments))
    assert "Traceback" not in result.output
    return result


def test_files_are_written_asked_evaluated_and_the_home_is_sound(up: Up, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    (notes / "birds").mkdir(parents=True)
    (notes / "birds" / "heron.md").write_text("# Herons\n\nherons fish at dawn")
    (notes / "otter.txt").write_text("otters sleep in kelp")
    (notes / "huge.txt").write_text("much too long " * 100_000)
    (notes / "binary.txt").write_bytes(b"\x00\xff")

    written = paramem("write", str(notes))
    assert written.exit_code == 1
    assert "2 of 4 documents readable, 2 are refined behind" in written.stdout
    assert "refused huge.txt: " in written.stderr
    assert "PARAMEM_MAX_DOCUMENT_BYTES" in written.stderr
    assert "binary.txt: holds NUL bytes" in written.stderr

    asked = paramem("query", "When do herons fish?", "--top-k", "1", "--selection", "cosine")
    assert asked.exit_code == 0
    assert "birds/heron.md" in asked.stdout
    assert "otter.txt" not in asked.stdout
    answer = json.loads(paramem("query", "herons?", "--context", "none", "--json").stdout)
    assert answer["memories"] == []
    filtered = paramem("query", "herons?", "--filters", '{"document_id": ["otter.txt"]}', "--json")
    assert [m["document_id"] for m in json.loads(filtered.stdout)["memories"]] == ["otter.txt"]

    shown = json.loads(paramem("memories", "show", "birds/heron.md", "--json").stdout)
    assert shown["title"] == "Herons"
    assert paramem("memories", "reconstruct", "birds/heron.md").exit_code == 0
    jobs = json.loads(paramem("jobs", "list", "--json").stdout)["items"]
    assert len(jobs) == 4
    for job in jobs:
        assert paramem("jobs", "watch", job["job_id"]).exit_code == 0
    refused = paramem("jobs", "cancel", jobs[0]["job_id"])
    assert refused.exit_code == 1
    assert "conflict" in refused.stderr

    report = tmp_path / "eval.json"
    data = str(write_tiny_set(tmp_path / "data"))
    evaluated = paramem("eval", "--data", data, "--set", "tiny", "--json", str(report))
    assert evaluated.exit_code == 0, evaluated.stderr
    numbers = json.loads(report.read_text())
    assert numbers["settings"]["memory"]["recall_at_1"]["value"] == 1.0
    assert numbers["settings"]["memory-oracle"]["errors"] == 0
    assert numbers["run"]["fingerprint"]
    assert numbers["store"]["documents"] == 3
    assert numbers["store"]["bytes_per_passage"] > 0
    assert numbers["reconstruction"]["rouge_l"]["n"] == 3
    again = paramem("eval", "--data", data, "--set", "tiny", "--settings", "closed")
    assert "all were there already" in again.stdout

    assert paramem("memories", "delete", "otter.txt").exit_code == 0
    assert paramem("memories", "show", "otter.txt").exit_code == 1

    assert up.stop() == 0
    home = ("--home", str(tmp_path / "home"))
    compacted = paramem("compact", *home, "--json")
    assert compacted.exit_code == 0, compacted.stderr
    assert json.loads(paramem("doctor", *home, "--json").stdout) == {"ok": True, "problems": []}
    rebuilt = json.loads(paramem("rebuild-index", *home, "--json").stdout)
    assert rebuilt == {"vectors": 4}


def test_a_collection_is_written_again_into_another(tmp_path: Path) -> None:
    home = ("--home", str(tmp_path))
    with MemoryStore.open(tmp_path) as store:
        store.put_collection("old", MemorySpec("older-bundle", 4, 32))
        store.submit(WriteRequest("Herons fish at dawn.", "heron", collection="old"))
        unknown = paramem("reencode", "old", "new", *home)
        assert (unknown.exit_code, "not_found" in unknown.stderr) == (1, True)
        store.put_collection("new", MemorySpec("newer-bundle", 4, 32))
        done = paramem("reencode", "old", "new", *home, "--mode", "fast")
        assert done.stdout == "1 documents queued for new\n"
        told = json.loads(
            paramem("reencode", "old", "new", *home, "--mode", "fast", "--json").stdout
        )
        assert told == {"queued": 1, "without_text": []}
        queued = store.jobs.list(collection="new", limit=10).items
        assert [(job.document_id, job.mode) for job in queued] == [("heron", "fast")]


@pytest.mark.parametrize("command", ["doctor", "compact", "rebuild-index"])
def test_operating_on_a_home_that_is_not_there_creates_nothing(
    command: str, tmp_path: Path
) -> None:
    result = paramem(command, "--home", str(tmp_path / "nowhere"))
    assert result.exit_code == 1
    assert "there is no paramem home" in result.stderr
    assert not (tmp_path / "nowhere").exists()


def start_demo(tmp_path: Path) -> tuple[subprocess.Popen[bytes], Path]:
    environment = {**os.environ, **SETTINGS, "TMPDIR": str(tmp_path)}
    log_path = tmp_path / "demo.out"
    with log_path.open("wb") as log:
        return start_paramem(["demo"], environment=environment, log=log), log_path


def test_the_demo_shows_everything_and_leaves_nothing(tmp_path: Path) -> None:
    process, log_path = start_demo(tmp_path)
    assert process.wait(120) == 0, log_path.read_text()
    shown = log_path.read_text()
    assert "written    20 documents" in shown
    assert "refined    20 of 20 memories" in shown
    assert shown.count("\nquestion   ") == 6
    assert "from The Skerrow lighthouse" in shown
    assert "closed-book answers of the same model" in shown
    assert [path.name for path in tmp_path.iterdir()] == ["demo.out"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_stops_its_server_too(tmp_path: Path, number: int) -> None:
    process, log_path = start_demo(tmp_path)
    eventually("the demo's server runs", lambda: "up" in children_of(process.pid))
    up = children_of(process.pid)["up"]
    eventually("it has both children", lambda: len(children_of(up)) == 2)
    below = [up, *children_of(up).values()]
    process.send_signal(number)
    assert process.wait(120) == 130
    assert not any(map(is_alive, below))
    assert "interrupted" in log_path.read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["demo.out"]
