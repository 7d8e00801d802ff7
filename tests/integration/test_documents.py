"""docs/: what can be run is run, what cannot is checked for the names it uses."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from clients.cli.app import app
from clients.demo import demo_server
from tests.integration.test_readme import BLOCK, DEFAULT_ADDRESS

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted((ROOT / "docs").glob("*.md"))
OPERATIONS = (ROOT / "docs" / "operations.md").read_text("utf-8")
# `bash` blocks are run here; `console` blocks (cloud, Docker) are run elsewhere.
RUN, ELSEWHERE = "bash", "console"


def blocks(text: str, language: str) -> list[str]:
    return [match[2] for match in BLOCK.finditer(text) if match[1] == language]


def test_every_command_of_the_operations_page_runs_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    for name, value in (
        ("PARAMEM_ENGINE", "dummy"),
        ("PARAMEM_WRITER", "dummy"),
        ("PARAMEM_HOME", str(home)),
        ("BACKUPS", str(tmp_path / "backups")),
        ("NEW_HOME", str(tmp_path / "new")),
        ("PYTHONPATH", str(ROOT)),
        ("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"),
    ):
        monkeypatch.setenv(name, value)
    with demo_server(home, lambda _what: None) as url:
        monkeypatch.setenv("PARAMEM_URL", url)
        outputs = []
        for block in blocks(OPERATIONS, RUN):
            done = subprocess.run(
                ["bash", "-ec", block.replace(f"http://{DEFAULT_ADDRESS}", url)],
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            assert done.returncode == 0, done.stderr + done.stdout
            assert '"error":{' not in done.stdout
            outputs.append(done.stdout)
    transcript = "".join(outputs)
    for told in ("snap_", '"status":"queued"', "is as it was in", "no problems found"):
        assert told in transcript


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", document.read_text("utf-8"))
    assert links
    assert [link for link in links if not (document.parent / link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_that_are_not_run_here_name_what_exists(document: Path) -> None:
    text = document.read_text("utf-8")
    commands = set(getattr(get_command(app), "commands"))  # noqa: B009
    named = re.findall(
        r"(?<![-\w./])paramem ([a-z][a-z-]+)",
        "\n".join(blocks(text, ELSEWHERE)) + " ".join(re.findall(r"`paramem [^`]+`", text)),
    )
    assert named
    assert {name for name in named if not name.startswith("paramem")} <= commands


@pytest.mark.parametrize("page", ["deploy-gcp-l4.md", "operations.md"])
def test_commands_that_are_run_elsewhere_name_what_compose_has(page: str) -> None:
    text = (ROOT / "docs" / page).read_text("utf-8")
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    profiles = {one for service in compose["services"].values() for one in service["profiles"]}
    elsewhere = "\n".join(blocks(text, ELSEWHERE))
    assert elsewhere
    assert set(re.findall(r"--profile (\S+)", text)) <= profiles
    assert set(re.findall(r"compose exec (\S+)", elsewhere)) <= set(compose["services"])


def test_the_cloud_page_says_that_it_was_not_run_and_what_is_arithmetic() -> None:
    text = (ROOT / "docs" / "deploy-gcp-l4.md").read_text("utf-8")
    assert "**Not yet run.**" in text
    assert "no figure for an L4" in text
    assert "*Arithmetic, not a measurement:*" in text
    assert not blocks(text, RUN)
