"""Snapshots from the command line and the client, of a paramem that runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from clients import Client
from tests.integration.clients.conftest import Up, eventually
from tests.integration.clients.test_commands import paramem


def document_ids(client: Client) -> list[str]:
    return [memory.document_id for memory in client.memories().items]


def test_what_was_written_by_mistake_is_undone_by_a_restart(
    start_up: Callable[[], Up], tmp_path: Path
) -> None:
    home = ("--home", str(tmp_path / "home"))
    away = str(tmp_path / "away")
    up = start_up()
    with Client(up.url) as client:
        client.wait(client.write("herons fish at dawn", id="heron").job_id)
        job = client.take_snapshot()
        eventually("it is taken", lambda: client.snapshot_job(job.job_id).is_final)
        snapshot_id = client.snapshot_job(job.job_id).snapshot_id
        assert snapshot_id is not None
        # while it runs, from outside
        taken = json.loads(paramem("snapshot", *home, "--to", away, "--json").stdout)
        assert taken["documents"] == 1
        client.delete("heron")
        client.wait(client.write("a mistake", id="mistake").job_id)
        restoring = client.restore_snapshot(snapshot_id)
        eventually("it is verified", lambda: client.snapshot_job(restoring.job_id).is_final)
        assert (client.snapshot_job(restoring.job_id).result or {})["applied"] is False
        assert document_ids(client) == ["mistake"]
        assert [one.snapshot_id for one in client.snapshots().items] == [snapshot_id]
    assert up.stop() == 0

    up = start_up()
    with Client(up.url) as client:
        assert document_ids(client) == ["heron"]
        assert client.query("When do herons fish?", top_k=1).memories[0].document_id == "heron"
        client.delete_snapshot(snapshot_id)
        assert client.snapshots().items == ()
    waiting = paramem("restore", away, "--to", home[1])
    assert waiting.exit_code == 0
    assert "is in use" in waiting.stdout
    assert up.stop() == 0

    listed = json.loads(paramem("snapshots", "list", *home, "--from", away, "--json").stdout)
    assert [one["snapshot_id"] for one in listed["items"]] == [taken["snapshot_id"]]
    new = str(tmp_path / "new")
    restored = paramem("restore", f"{away}/{taken['snapshot_id']}", "--to", new)
    assert restored.exit_code == 0, restored.stderr
    assert "need the bundle dummy-1" in restored.stdout
    assert json.loads(paramem("doctor", "--home", new, "--json").stdout)["ok"]
    assert paramem("snapshots", "list", *home).exit_code == 0
    gone = paramem("snapshots", "delete", taken["snapshot_id"], *home, "--from", away)
    assert gone.exit_code == 0
    nothing = paramem("restore", away, "--to", new)
    assert nothing.exit_code == 1
    assert "there is no snapshot in" in nothing.stderr
