from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import httpx
import pytest

from clients import AsyncClient, ConnectionError
from clients.calls import READ_ALL
from clients.evaluation.ask import AskedQuestion, ask_questions
from clients.evaluation.data import Question
from clients.evaluation.measure import SettingResult
from clients.evaluation.plan import Plan, Setting
from clients.retries import NO_RETRIES

QUESTIONS = [
    Question(id=f"q{n}", question=f"Question {n}?", answers=("yes",), doc_ids=(f"d{n}", "d9"))
    for n in range(4)
]


class Server:
    """Answers "yes" unless told otherwise; notes what it was asked."""

    def __init__(self, refuse: Callable[[str], bool] = lambda _: False) -> None:
        self.refuse = refuse
        self.bodies: list[dict[str, object]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        self.bodies.append(body)
        if self.refuse(body["query"]):
            error = {"code": "context_length_exceeded", "message": "too long"}
            return httpx.Response(422, json={"error": error})
        events = [("delta", {"text": "yes"}), ("done", {"answer": "yes", "timings_ms": {}})]
        text = "".join(f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in events)
        return httpx.Response(200, headers={"Content-Type": "text/event-stream"}, text=text)


def ask(server: Callable[[httpx.Request], httpx.Response], setting: Setting) -> list[AskedQuestion]:
    plan = Plan(set_name="s", settings=(setting,), concurrency=2, mode="fast")

    async def main() -> list[AskedQuestion]:
        transport = httpx.MockTransport(server)
        async with AsyncClient("http://test", transport=transport, retries=NO_RETRIES) as client:
            return await ask_questions(client, QUESTIONS, setting, plan, lambda: None)

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("setting", "context", "is_oracle"),
    [
        (Setting.MEMORY, "memory", False),
        (Setting.MEMORY_ORACLE, "memory", True),
        (Setting.TEXT, "text", False),
        (Setting.TEXT_ORACLE, "text", True),
        (Setting.CLOSED, "none", False),
    ],
)
def test_each_setting_asks_in_its_own_way(setting: Setting, context: str, is_oracle: bool) -> None:
    server = Server()
    ask(server, setting)
    body = next(body for body in server.bodies if body["query"] == "Question 1?")
    assert body["context"] == context
    assert body["collection"] == "eval-s-fast"
    assert body.get("filters") == ({"document_id": ["d1", "d9"]} if is_oracle else None)
    assert body.get("score_margin") == (READ_ALL if is_oracle else None)
    assert ("top_k" in body) == (setting is not Setting.CLOSED)


def test_answers_come_in_the_order_of_the_questions() -> None:
    asked = ask(Server(), Setting.MEMORY)
    assert [one.question.id for one in asked] == ["q0", "q1", "q2", "q3"]
    assert all(one.ttft_ms <= one.total_ms for one in asked)


def test_a_refused_question_is_a_wrong_answer_and_its_time_does_not_count() -> None:
    asked = ask(Server(lambda query: "2" in query), Setting.TEXT)
    assert asked[2].error is not None
    result = SettingResult.of(asked, selects=True, top_k=5)
    assert result.errors == 1
    assert result.metrics["em"].value == 0.75
    assert result.metrics["em"].n == 4
    assert result.metrics["total_ms_p50"].n == 3


def test_recall_at_five_is_left_out_when_fewer_memories_are_read() -> None:
    asked = ask(Server(), Setting.MEMORY)
    assert "recall_at_5" in SettingResult.of(asked, selects=True, top_k=5).metrics
    assert "recall_at_5" not in SettingResult.of(asked, selects=True, top_k=4).metrics


def test_a_server_that_is_gone_is_one_plain_error() -> None:
    def refuse(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(ConnectionError, match="paramem up"):
        ask(refuse, Setting.MEMORY)
