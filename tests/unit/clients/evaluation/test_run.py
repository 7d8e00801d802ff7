from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from clients import Client, ParamemError
from clients.evaluation import report
from clients.evaluation.data import load_set
from clients.evaluation.measure import EvaluationResult
from clients.evaluation.plan import Plan, Setting
from clients.evaluation.run import run_evaluation
from tests.unit.clients.evaluation.tiny_set import DOCUMENTS, QUESTIONS, write_set, write_tiny_set
from tests.unit.clients.fake_server import POISON, FakeServer

ALL = tuple(Setting)


def evaluate(directory: Path, name: str = "tiny", **changes: object) -> EvaluationResult:
    plan = Plan(set_name=name, settings=ALL, mode="fast", concurrency=2)
    for field, value in changes.items():
        object.__setattr__(plan, field, value)
    with Client() as client:
        return run_evaluation(client, load_set(directory, name), plan, lambda *_: None)


def test_the_measures_of_every_setting_are_right(fake_server: FakeServer, tmp_path: Path) -> None:
    result = evaluate(write_tiny_set(tmp_path))
    memory = result.settings[Setting.MEMORY].metrics
    assert memory["contains"].value == pytest.approx(2 / 3)
    assert memory["em"].value == 0
    assert memory["recall_at_1"].value == 1
    assert memory["contains"].n == 3
    closed = result.settings[Setting.CLOSED].metrics
    assert closed["contains"].value == 0
    assert "recall_at_1" not in closed
    assert "recall_at_1" not in result.settings[Setting.MEMORY_ORACLE].metrics
    assert result.settings[Setting.TEXT].server_ms["ttft"] == 2.0


def test_what_was_measured_is_stated_with_the_numbers(
    fake_server: FakeServer, tmp_path: Path
) -> None:
    facts = evaluate(write_tiny_set(tmp_path)).facts
    stated = {name: facts[name] for name in ("model", "fingerprint", "m", "d", "K", "dtype")}
    assert stated == {
        "model": "fake",
        "fingerprint": "fake-1",
        "m": 4,
        "d": 8,
        "K": 5,
        "dtype": "float32",
    }
    assert "cores" in facts["client_host"]


def test_the_memories_may_have_another_shape_than_the_servers(
    fake_server: FakeServer, tmp_path: Path
) -> None:
    facts = evaluate(write_tiny_set(tmp_path), slots=2, code_format="int4").facts
    assert (facts["m"], facts["code_format"]) == (2, "int4")
    assert facts["collection"] == "eval-tiny-fast-m2-int4"


def test_documents_that_are_there_already_are_not_written_again(
    fake_server: FakeServer, tmp_path: Path
) -> None:
    assert evaluate(write_tiny_set(tmp_path)).store.documents_written == 3
    assert evaluate(tmp_path).store.documents_written == 0
    assert [path for _, path in fake_server.requests].count("/write/batch") == 1


def test_a_document_that_changed_or_has_another_tier_is_written_again(
    fake_server: FakeServer, tmp_path: Path
) -> None:
    evaluate(write_tiny_set(tmp_path))
    changed = [{**DOCUMENTS[0], "text": "otters sleep in deep kelp"}, *DOCUMENTS[1:]]
    write_set(tmp_path, "tiny", changed, QUESTIONS)
    assert evaluate(tmp_path).store.documents_written == 1
    assert evaluate(tmp_path, mode="fit").store.documents_written == 3


def test_a_document_the_server_refuses_is_reported_and_the_rest_is_measured(
    fake_server: FakeServer, tmp_path: Path
) -> None:
    bad = {"id": "d4", "title": "Bad", "text": POISON}
    write_set(tmp_path, "tiny", [*DOCUMENTS, bad], QUESTIONS)
    store = evaluate(tmp_path).store
    assert store.failures == ("d4: not this one",)
    assert store.documents == 3
    assert store.bytes_per_document == 64


def test_a_set_of_which_nothing_can_be_written_ends_with_the_reason(
    fake_server: FakeServer, tmp_path: Path
) -> None:
    write_set(tmp_path, "tiny", [{**DOCUMENTS[0], "text": POISON}], QUESTIONS[:1])
    with pytest.raises(ParamemError, match="d1: not this one"):
        evaluate(tmp_path)


def test_reconstruction_is_measured_from_stats_and_recitation(
    fake_server: FakeServer, tmp_path: Path
) -> None:
    numbers = evaluate(write_tiny_set(tmp_path), reconstruct=2).reconstruction.as_dict()
    assert numbers["nats_removed_percent"] == 75.0
    assert numbers["passages"] == 3
    # "otters sle" of "otters sleep in kelp": 1 of 2 words, 1 of 4: 1/3; "herons fis" likewise
    assert numbers["rouge_l"]["value"] == pytest.approx(1 / 3)
    assert numbers["rouge_l"]["n"] == 2


def test_json_holds_every_single_answer(fake_server: FakeServer, tmp_path: Path) -> None:
    encoded = report.as_json(evaluate(write_tiny_set(tmp_path)))
    rows = [row for row in encoded["answers"] if row["setting"] == "memory"]
    assert [row["question_id"] for row in rows] == ["q1", "q2", "q3"]
    assert rows[0]["contains"] == 1
    assert rows[0]["documents"] == ["d1"]
    assert encoded["settings"]["memory"]["contains"]["n"] == 3


def test_markdown_has_one_row_a_setting_and_the_facts(
    fake_server: FakeServer, tmp_path: Path
) -> None:
    lines = report.as_markdown(evaluate(write_tiny_set(tmp_path))).splitlines()
    rows = [line for line in lines if line.startswith("| ")]
    assert len(rows) == 2 + len(ALL)
    assert len({row.count("|") for row in rows}) == 1
    assert rows[2].startswith("| memory | 0.0 [0.0–0.0] | ")
    assert "fingerprint: fake-1" in lines[-1]


def test_the_tables_fit_eighty_columns_uncut(fake_server: FakeServer, tmp_path: Path) -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(report.as_tables(evaluate(write_tiny_set(tmp_path))))
    shown = console.export_text()
    assert "…" not in shown
    for setting in ALL:
        assert shown.count(f" {setting} ") == 2
