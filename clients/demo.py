"""The parts of ``paramem demo``: its documents, its questions, its own server.

The documents are about a place that does not exist, so no model can know the answers without
having read them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter

from clients.cli.files import find_files, read_file
from clients.cli.supervisor import free_port, local_url, start_paramem, stop_process
from clients.client import Client
from clients.documents import Document
from clients.errors import APIError, ConnectionError, ParamemError
from clients.evaluation.answers import contains
from clients.results import WriteMode

DIRECTORY = Path(__file__).parent / "demo_documents"
HOST = "127.0.0.1"
LOG_NAME = "demo.log"
LOG_TAIL_LINES = 12
START_S = 1800.0  # a first start may convert or fetch a model
STOP_S = 60.0
SMALL_BATCHES = {"PARAMEM_BATCH_DOCUMENTS": "4"}  # so that a time budget ends between two
LOOK_EVERY_S = 0.2


class DemoQuestion(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    question: str
    answers: tuple[str, ...]
    document: str  # where the answer stands

    def is_answered_by(self, text: str) -> bool:
        return any(contains(text, answer) for answer in self.answers)


class DemoServerError(ParamemError):
    """The demo's own server did not come up; the message ends with its last words."""


def demo_documents(mode: WriteMode) -> list[Document]:
    """Those that are asked about first: what there is time to refine should matter."""
    asked = {question.document for question in demo_questions()}
    files = [read_file(found) for found in find_files([DIRECTORY])]
    files.sort(key=lambda file: file.document_id not in asked)
    return [
        Document(text=file.text, id=file.document_id, title=file.title, mode=mode) for file in files
    ]


def demo_questions() -> list[DemoQuestion]:
    encoded = (DIRECTORY / "questions.json").read_bytes()
    return TypeAdapter(list[DemoQuestion]).validate_json(encoded)


@contextmanager
def demo_server(
    home: Path, on_wait: Callable[[str], None], *, command: str = "up"
) -> Iterator[str]:
    """``paramem COMMAND`` on a free port; yields its URL once it is ready, stops it afterwards.

    However the block is left, no process stays behind. ``on_wait`` is told what is waited for.

    Raises: DemoServerError when it does not come up or, at the end, not down by itself.
    """
    port = free_port(HOST)
    url = local_url(HOST, port)
    home.mkdir(parents=True, exist_ok=True)
    log_path = home / LOG_NAME
    with log_path.open("wb") as log:
        place = ["--host", HOST, "--port", str(port), "--home", str(home)]
        process = start_paramem([command, *place], environment=SMALL_BATCHES | os.environ, log=log)
        try:
            with Client(url) as client:
                _await_ready(client, process.poll, log_path, on_wait)
            yield url
        except BaseException:
            stop_process(process, STOP_S)
            raise
        if not stop_process(process, STOP_S):
            raise DemoServerError(f"the server did not stop cleanly:\n{_last_words(log_path)}")


def _await_ready(
    client: Client,
    exit_code: Callable[[], int | None],
    log_path: Path,
    on_wait: Callable[[str], None],
) -> None:
    deadline = time.monotonic() + START_S
    while True:
        if (code := exit_code()) is not None:
            raise DemoServerError(
                f"the server ended with exit code {code}:\n{_last_words(log_path)}"
            )
        if time.monotonic() > deadline:
            raise DemoServerError(
                f"the server was not ready after {START_S:g} s:\n{_last_words(log_path)}"
            )
        try:
            readiness = client.ready()
            if readiness.ready:
                return
            engine = readiness.checks.get("engine", {})
            if engine.get("state") == "failed":  # it stays up to say so
                raise DemoServerError(f"the engine did not start: {engine.get('error')}")
            on_wait("loading the model")
        except (ConnectionError, APIError):
            on_wait("starting the server")
        time.sleep(LOOK_EVERY_S)


def _last_words(log_path: Path) -> str:
    lines = log_path.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-LOG_TAIL_LINES:]) or "(it said nothing)"
