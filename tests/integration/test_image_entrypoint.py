"""The image's own command and environment, run without Docker: to readiness and down again."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from clients import Client, ParamemError
from clients.cli.supervisor import free_port
from tests.integration.clients.conftest import SOON_S, eventually

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
FINAL_STAGE = DOCKERFILE.rpartition("\nFROM ")[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())


def instruction(name: str) -> list[str]:
    [line] = re.findall(rf"^{name} (\[.*\])$", FINAL_STAGE, re.MULTILINE)
    words: list[str] = json.loads(line)
    return words


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The image's, with its directories moved below the test's, and nothing of this shell's."""
    [line] = re.findall(r"^ENV (.*)$", FINAL_STAGE, re.MULTILINE)
    declared = dict(pair.split("=", 1) for pair in line.split())
    root = tmp_path / "root"
    (root / "var/lib/paramem").mkdir(parents=True)
    moved = {name: value.replace("/var/lib", f"{root}/var/lib") for name, value in declared.items()}
    bin_directory = Path(sys.executable).parent
    return {
        **moved,
        "PATH": moved["PATH"].replace("/opt/venv/bin", str(bin_directory)).replace("$PATH", ""),
        "PYTHONPATH": str(ROOT),  # this checkout is what would be installed
        "PARAMEM_ENGINE": "dummy",
        "PARAMEM_WRITER": "dummy",
        "PARAMEM_PORT": str(free_port()),
    }


@contextmanager
def running(
    command: list[str], environment: dict[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*instruction("ENTRYPOINT"), *command],
            env=environment,
            cwd=log.parent,
            stdout=output,
            stderr=output,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_the_images_command_comes_to_readiness_and_drains(
    environment: dict[str, str], tmp_path: Path
) -> None:
    keys = tmp_path / "api_keys"
    keys.write_text("secret-key\n")
    served = environment | {"PARAMEM_API_KEY_FILE": str(keys)}
    worker_command = COMPOSE["services"]["worker"]["command"]
    with (
        running(instruction("CMD"), served, tmp_path / "server.log") as server,
        running(worker_command, environment, tmp_path / "worker.log") as worker,
        Client(f"http://127.0.0.1:{environment['PARAMEM_PORT']}", api_key="secret-key") as client,
    ):

        def ready() -> bool:
            for process, log in ((server, "server.log"), (worker, "worker.log")):
                assert process.poll() is None, (tmp_path / log).read_text()
            try:
                return client.ready().ready
            except ParamemError:
                return False

        eventually("the image's server is ready", ready)
        client.wait(client.write("herons fish at dawn", id="heron").job_id)
        assert client.query("herons?").memories[0].document_id == "heron"
        for process in (server, worker):
            process.send_signal(signal.SIGTERM)
        assert [process.wait(SOON_S) for process in (server, worker)] == [0, 0]
    home = Path(environment["PARAMEM_HOME"])
    assert (home / "catalogue.db").exists()
    lines = [json.loads(line) for line in (tmp_path / "server.log").read_text().splitlines()]
    requests = [line for line in lines if line["event"] == "request"]
    assert requests
    assert all(re.fullmatch(r"[0-9a-f]{32}", line["request_id"]) for line in requests)
