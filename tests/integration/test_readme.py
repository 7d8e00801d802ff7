"""Every command in the README is run: against a real server with the dummy engine and writer."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from clients.demo import demo_server

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DEFAULT_ADDRESS = "127.0.0.1:8420"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [(match[1], match[2]) for match in BLOCK.finditer(README)]

# Run elsewhere: make targets by CI, `paramem up` by the fixture, compose by test_deployment, eval
# and bench by the clients' tests, rag by the baselines'.
ELSEWHERE = re.compile(
    r"^(make |paramem up|mkdir -p secrets|paramem eval|paramem rag|paramem bench)"
)


def commands() -> list[str]:
    return [body for language, body in BLOCKS if language == "bash" and not ELSEWHERE.match(body)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARAMEM_ENGINE", "dummy")
        patch.setenv("PARAMEM_WRITER", "dummy")
        with demo_server(tmp_path_factory.mktemp("home"), lambda _what: None) as url:
            yield url


def run(command: list[str], server: str, cwd: Path) -> str:
    environment = os.environ | {
        "PARAMEM_URL": server,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def test_every_shell_command_runs_in_order(server: str, tmp_path: Path) -> None:
    outputs = []
    for block in commands():
        script = "set -e\n" + block.replace(f"http://{DEFAULT_ADDRESS}", server)
        outputs.append(run(["bash", "-c", script], server, tmp_path))
        assert '"error":{' not in outputs[-1], outputs[-1]
    transcript = "".join(outputs)
    for event in ("event: memories", "event: delta", "event: done"):
        assert event in transcript
    assert "bakery" in transcript


def test_the_transcripts_show_the_fields_that_really_come(server: str, tmp_path: Path) -> None:
    shown = [body for language, body in BLOCKS if language == "json"]
    calls = [block for block in commands() if block.startswith("curl -s -X POST")]
    assert len(shown) == len(calls) == 2
    for expected, call in zip(shown, calls, strict=True):
        script = call.replace(f"http://{DEFAULT_ADDRESS}", server)
        answer = json.loads(run(["bash", "-c", script], server, tmp_path))
        wanted = json.loads(expected)
        assert wanted.keys() <= answer.keys()
        for name, value in wanted.items():
            if isinstance(value, dict):
                assert value.keys() <= answer[name].keys(), name


def test_the_python_example_runs(server: str, tmp_path: Path) -> None:
    [example] = [body for language, body in BLOCKS if language == "python"]
    output = run(
        [sys.executable, "-c", example.replace(f"http://{DEFAULT_ADDRESS}", server)],
        server,
        tmp_path,
    )
    assert "'mine'" in output


def test_up_takes_the_options_that_the_readme_gives_it() -> None:
    [block] = [body for _, body in BLOCKS if body.startswith("paramem up")]
    options = set(re.findall(r"--\w+", block))
    help_text = run([sys.executable, "-m", "clients.cli.app", "up", "--help"], "", ROOT)
    assert options
    assert options <= set(re.findall(r"--\w+", help_text))


def test_the_readmes_make_targets_exist_and_ci_runs_the_tests() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"make (\w+)", README)) - {"it"}
    assert named <= targets
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
