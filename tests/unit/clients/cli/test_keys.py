"""``paramem keys new``: a key once, and the line that a server takes it by."""

from __future__ import annotations

import json
import re

import pytest
from typer.testing import CliRunner

from clients.cli.app import app
from server.keys import digest_of, parse_line

runner = CliRunner()
NEW = ["keys", "new", "--name", "app"]


def test_the_line_goes_to_stdout_and_the_key_to_stderr() -> None:
    options = ["--scopes", "read", "--collections", "notes", "--rate", "5/s", "--bytes", "1GB"]
    made = runner.invoke(app, [*NEW, *options, "--documents", "10"])
    assert made.exit_code == 0
    [key] = re.findall(r"paramem_[0-9a-f]{48}", made.stderr)
    assert key not in made.stdout
    line = parse_line(made.stdout)
    assert line.name == "app"
    assert line.digest == digest_of(key.encode())
    assert (line.scopes, line.collections) == ({"read"}, {"notes"})
    assert line.rate is not None
    assert (line.rate.count, line.max_documents, line.max_bytes) == (5, 10, 10**9)


def test_a_key_may_read_and_write_but_not_administer_unless_asked() -> None:
    made = json.loads(runner.invoke(app, [*NEW, "--json"]).stdout)
    assert parse_line(made["line"]).scopes == {"read", "write"}
    assert made["key"] != json.loads(runner.invoke(app, [*NEW, "--json"]).stdout)["key"]


@pytest.mark.parametrize(
    "wrong",
    [
        ["--scopes", "all"],
        ["--rate", "5"],
        ["--collections", "a b"],
        ["--name", "a b"],
        ["--name", "#a"],
        ["--name", "a scopes=admin"],
        ["--bytes", "1GB scopes=admin"],
    ],
)
def test_what_no_line_can_say_is_refused_and_no_key_is_shown(wrong: list[str]) -> None:
    made = runner.invoke(app, [*NEW, *wrong])
    assert made.exit_code == 2
    assert made.stdout == ""
    assert "paramem_" not in made.stderr
