from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from clients.cli.app import app


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARAMEM_CACHE", str(tmp_path / "cache"))


def model(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["model", *arguments])


def test_a_model_directory_is_shown_with_its_facts(tiny_model: Path) -> None:
    shown = json.loads(model("show", str(tiny_model), "--json").stdout)
    assert shown["hidden_size"] == 64
    assert shown["layers"] == 3
    assert shown["path"] == str(tiny_model)
    assert "hidden size     64" in model("show", str(tiny_model)).stdout


def test_pulling_what_is_there_names_its_directory(tiny_model: Path) -> None:
    assert model("pull", str(tiny_model)).stdout.strip() == str(tiny_model)


def test_the_model_of_the_settings_is_the_default(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARAMEM_MODEL", str(tiny_model))
    assert json.loads(model("pull", "--json").stdout)["name"] == str(tiny_model)


def test_a_model_that_is_nowhere_is_one_line_that_says_how_to_get_it(tmp_path: Path) -> None:
    result = model("show", str(tmp_path / "none"))
    assert result.exit_code == 1
    assert "paramem model pull" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_an_empty_cache_is_an_empty_list() -> None:
    assert json.loads(model("list", "--json").stdout) == []
    assert model("list").exit_code == 0
