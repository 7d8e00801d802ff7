"""``paramem rag``: the same contract as ``paramem up``, over chunks and an encoder.

With the dummy engine, so that only the encoder is real.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from clients import APIError, Client
from clients.cli.supervisor import free_port, local_url, start_paramem
from tests.integration.clients.conftest import Up

DOCUMENTS = {
    "heron": "Herons fish at dawn, standing in shallow water.",
    "market": "The stock market fell by two per cent on Friday.",
    "bread": "Smoke loaf is baked over burning juniper twigs.",
}
SETTINGS = {"PARAMEM_ENGINE": "dummy", "PARAMEM_POLL_S": "0.05", "PARAMEM_HEARTBEAT_S": "0.2"}


@pytest.fixture(scope="module")
def rag(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    directory = tmp_path_factory.mktemp("rag")
    port = free_port()
    place = ["--host", "127.0.0.1", "--port", str(port), "--home", str(directory / "home")]
    log_path = directory / "rag.log"
    with log_path.open("wb") as log:
        process = start_paramem(["rag", *place], environment={**os.environ, **SETTINGS}, log=log)
    up = Up(process, local_url("127.0.0.1", port), log_path)
    up.wait_ready()
    yield up
    assert up.stop() == 0


@pytest.fixture(scope="module")
def client(rag: Up) -> Iterator[Client]:
    with Client(rag.url) as client:
        for document_id, text in DOCUMENTS.items():
            job = client.wait(client.write(text, id=document_id), timeout_s=60)
            assert job.status == "succeeded"
        yield client


@pytest.mark.model
def test_a_question_gets_the_text_of_the_passage_about_it(client: Client) -> None:
    answer = client.query("How is bread made?", top_k=1)
    assert [memory.document_id for memory in answer.memories] == ["bread"]
    assert answer.usage.memory_slots == 0
    closed = client.query("How is bread made?", context="none")
    assert answer.usage.prompt_tokens > closed.usage.prompt_tokens
    assert answer.answer != closed.answer


@pytest.mark.model
def test_a_chunk_is_stored_once_with_its_vector_and_nothing_to_refine(client: Client) -> None:
    [passage] = client.memory("heron").passages
    assert passage.bytes == 2 * 384
    jobs = client.jobs().items
    assert {job.refine_job_id for job in jobs} == {None}
    assert len(jobs) == len(DOCUMENTS)


@pytest.mark.model
def test_it_says_that_it_has_no_memories(client: Client) -> None:
    with pytest.raises(APIError, match="holds chunks of text"):
        client.query("How is bread made?", context="memory")
    with pytest.raises(APIError, match="selection cosine is not available"):
        client.query("How is bread made?", selection="cosine")


@pytest.mark.model
def test_documents_can_be_replaced_and_deleted(client: Client) -> None:
    client.wait(client.write("Owls see in the dark.", id="owl"), timeout_s=60)
    client.wait(client.write("Owls sleep by day in hollow trees.", id="owl"), timeout_s=60)
    [found_again] = client.query("Where do owls rest?", top_k=1).memories
    assert found_again.document_id == "owl"
    assert client.memory("owl").version == 2
    client.delete("owl")
    found = client.query("Where do owls rest?", top_k=5).memories
    assert "owl" not in [memory.document_id for memory in found]


@pytest.mark.model
def test_restarted_it_still_has_its_chunks(tmp_path: Path) -> None:
    place = ["--host", "127.0.0.1", "--home", str(tmp_path / "home")]
    answers = []
    for start in range(2):
        port = free_port()
        with (tmp_path / f"{start}.log").open("wb") as log:
            process = start_paramem(
                ["rag", *place, "--port", str(port)],
                environment={**os.environ, **SETTINGS},
                log=log,
            )
        up = Up(process, local_url("127.0.0.1", port), tmp_path / f"{start}.log")
        up.wait_ready()
        with Client(up.url) as client:
            if start == 0:
                client.wait(client.write(DOCUMENTS["heron"], id="heron"), timeout_s=60)
            answers.append(client.query("When do birds hunt?").answer)
        assert up.stop() == 0
    assert answers[0] == answers[1] != ""
