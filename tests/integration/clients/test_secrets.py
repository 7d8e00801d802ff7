"""What is written and asked, and the keys, are nobody's business but the store's: not the logs'."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from clients import APIError, Client
from clients.cli.app import app
from tests.integration.clients.conftest import Up

TEXT = "zanzibarmarker sleeps in kelp and tells nobody"
QUESTION = "where does quagmiremarker sleep"
TITLE = "titlemarker"
METADATA = {"metamarker": "valuemarker"}
WORDS = ("zanzibarmarker", "quagmiremarker", TITLE, *METADATA, *METADATA.values())


def test_logs_at_debug_hold_neither_keys_nor_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start_up: Callable[[], Up]
) -> None:
    made = CliRunner().invoke(app, ["keys", "new", "--name", "app", "--json"])
    key, line = json.loads(made.stdout).values()
    plain = "plainkeymarker" * 3
    key_file = tmp_path / "keys"
    key_file.write_text(f"{plain}\n{line}\n")
    monkeypatch.setenv("PARAMEM_API_KEY_FILE", str(key_file))
    monkeypatch.setenv("PARAMEM_LOG_LEVEL", "DEBUG")
    monkeypatch.setenv("PARAMEM_API_KEY", key)
    up = start_up()
    with Client(up.url) as client:
        client.wait(client.write(TEXT, title=TITLE, metadata=METADATA).job_id, timeout_s=60)
        assert client.query(QUESTION, filters=METADATA).memories
        with client.query_stream(QUESTION) as events:
            assert list(events)
        with pytest.raises(APIError):
            client.query(QUESTION, filters={"quagmiremarker": {"zanzibarmarker": [1]}})
    with httpx.Client(base_url=up.url, trust_env=False) as http:
        for given in (plain, "wrongkeymarker"):
            http.get("/jobs", headers={"Authorization": f"Bearer {given}"})
        http.headers["Authorization"] = f"Bearer {key}"
        http.post("/write", content=b'{"text": "zanzibarmarker')
        http.post("/write", json={"text": TEXT, "zanzibarmarker": 1})
        http.get(f"/memories/{TITLE}", params={"filter": QUESTION})
    assert up.stop() == 0
    assert '"route": "/query"' in up.log  # it is the log we think it is
    assert '"key": "app"' in up.log
    for secret in (*WORDS, key, plain, "plainkeymarker", "wrongkeymarker", line.split()[1]):
        assert secret not in up.log
