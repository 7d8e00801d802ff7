"""The whole service with the real default model: what was written is answered after a restart."""

from __future__ import annotations

from pathlib import Path

import pytest

from clients import Client
from clients.demo import demo_documents, demo_questions, demo_server


@pytest.mark.model
def test_write_restart_and_query_give_the_same_streamed_answer(tmp_path: Path) -> None:
    question = demo_questions()[0].question
    answers = []
    for start in range(2):
        with demo_server(tmp_path / "home", lambda _what: None) as url, Client(url) as client:
            if start == 0:
                for line in client.write_many(demo_documents("fast")[:6]):
                    assert line.job is not None
                    client.wait(line.job.job_id)
            with client.query_stream(question, top_k=3, max_new_tokens=12) as events:
                *_, last = events
            answers.append(last.answer)
    first, second = answers
    assert first.answer == second.answer
    assert first.answer.strip()
    assert [memory.score for memory in first.memories] == pytest.approx(
        [memory.score for memory in second.memories]
    )
    assert first.memories[0].document_id == demo_questions()[0].document
    assert first.usage.memory_slots == 64 * sum(memory.read for memory in first.memories)
    assert len(first.memories) == 3
