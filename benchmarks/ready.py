"""From kill -9 to ready, and to the first right answer, on a home of many memories.

    python -m benchmarks.ready --memories 100000

Builds the home through the store's own API (dummy codes, real size of keys), starts server and
worker with the dummy engine, kills both, and starts them again: with the saved index lost, and with
it present. Times are from the start of the processes; the first query asks for one passage's own
words, so the answer is known.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.command import say
from benchmarks.homes import write_together
from clients import Client, ParamemError
from clients.cli.supervisor import free_port, local_url, start_paramem
from memory_model.hashing import hash_words
from memory_store import MemoryStore, PassageMemory, WriteMode, WriteRequest
from paramem.settings import load_settings
from trainer_worker.dummy_writer import DummyWriter

PASSAGES = 5  # of a document
DOCUMENTS = 64  # of a commit, hence of a shard
PATIENCE_S = 600.0
LOOK_EVERY_S = 0.02


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memories", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=576)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory) / "home"
        environment = os.environ | {
            "PARAMEM_ENGINE": "dummy",
            "PARAMEM_WRITER": "dummy",
            "PARAMEM_SLOTS": "1",
            "PARAMEM_Z_DIM": str(arguments.dim),
        }
        documents = arguments.memories // PASSAGES
        started = time.perf_counter()
        build(home, documents, arguments.dim)
        built_s = time.perf_counter() - started
        say(
            f"{documents * PASSAGES:,} memories in {documents:,} documents and "
            f"{len(list((home / 'shards').glob('*/*'))):,} shards, d = {arguments.dim}; "
            f"{documents * PASSAGES / built_s:,.0f} memories/s written\n"
        )
        say("| after kill -9 | ready s | first answer s | second ms |\n|---|--:|--:|--:|")
        with MemoryStore.open(home) as store:
            store.rebuild_index()
        say(measure("with the saved index", home, documents, environment))
        shutil.rmtree(home / "index")
        say(measure("without it", home, documents, environment))


def build(home: Path, documents: int, dim: int) -> None:
    settings = load_settings(slots=1, z_dim=dim)
    spec = DummyWriter.from_settings(settings).spec
    with MemoryStore.open(home) as store:
        store.put_collection("default", spec)
        for start in range(0, documents, DOCUMENTS):
            numbers = range(start, min(documents, start + DOCUMENTS))
            requests = [
                WriteRequest(document_text(number), name_of(number), mode=WriteMode.FAST)
                for number in numbers
            ]
            write_together(store, spec, requests, lambda job: remember(int(job.document_id), dim))


def remember(number: int, dim: int) -> list[PassageMemory]:
    memories, start = [], 0
    for passage in range(PASSAGES):
        text = passage_text(number, passage)
        memories.append(
            PassageMemory(
                codes=np.ones((1, dim), np.float32),
                key=hash_words(text, dim),
                text_start=start,
                text_end=start + len(text),
                num_tokens=len(text.split()),
                stats={},
            )
        )
        start += len(text) + 1
    return memories


def document_text(number: int) -> str:
    return "\n".join(passage_text(number, passage) for passage in range(PASSAGES))


def passage_text(number: int, passage: int) -> str:
    """Twelve words, most of them of no other passage."""
    return " ".join(
        f"w{(number * PASSAGES + passage) * 7919 + word * 104729}" for word in range(12)
    )


def name_of(number: int) -> str:
    return f"{number}"


def measure(what: str, home: Path, documents: int, environment: dict[str, str]) -> str:
    """Kill and start again. Returns: a row."""
    with running(home, environment) as client:
        wait_until(lambda: is_ready(client))
    # leaving the block was kill -9
    started = time.perf_counter()
    with running(home, environment) as client:
        wait_until(lambda: is_ready(client))
        ready_s = time.perf_counter() - started
        ask(client, documents // 2)
        first_s = time.perf_counter() - started
        asked = time.perf_counter()
        ask(client, documents // 3)
        second_ms = 1e3 * (time.perf_counter() - asked)
    return f"| {what} | {ready_s:.1f} | {first_s:.1f} | {second_ms:.0f} |"


def ask(client: Client, number: int) -> None:
    """Raises: AssertionError if the passage is not found by its own words."""
    answer = client.query(passage_text(number, 0), top_k=1, max_new_tokens=1)
    assert answer.memories[0].document_id == name_of(number), answer


@contextmanager
def running(home: Path, environment: dict[str, str]) -> Iterator[Client]:
    """Server and worker; killed with SIGKILL at the end."""
    port = free_port()
    with (home.parent / "log").open("ab") as log:
        server = ["serve", "--host", "127.0.0.1", "--port", str(port), "--home", str(home)]
        processes = [
            start_paramem(arguments, environment=environment, log=log)
            for arguments in (server, ["worker", "--home", str(home)])
        ]
    try:
        with Client(local_url("127.0.0.1", port)) as client:
            yield client
    finally:
        for process in processes:
            process.kill()
            process.wait()


def is_ready(client: Client) -> bool:
    try:
        return client.ready().ready
    except ParamemError:
        return False


def wait_until(condition: Callable[[], bool]) -> None:
    """Raises: TimeoutError."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("paramem did not become ready")
        time.sleep(LOOK_EVERY_S)


if __name__ == "__main__":
    main()
