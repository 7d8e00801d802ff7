from __future__ import annotations

from pathlib import Path

import pytest

from clients.evaluation.data import DataError, load_set
from tests.unit.clients.evaluation.tiny_set import DOCUMENTS, QUESTIONS, write_set, write_tiny_set


def test_a_set_is_read_whole_and_in_order(tmp_path: Path) -> None:
    found = load_set(write_tiny_set(tmp_path), "tiny")
    assert [document.id for document in found.documents] == ["d1", "d2", "d3"]
    assert [question.answers for question in found.questions] == [
        ("kelp",),
        ("at dawn",),
        ("candles",),
    ]


def test_an_unknown_set_lists_those_there_are(tmp_path: Path) -> None:
    write_tiny_set(tmp_path)
    (tmp_path / "lonely.qa.jsonl.gz").touch()
    with pytest.raises(DataError, match=r"no question set 'small' in .*; available: tiny$"):
        load_set(tmp_path, "small")


def test_a_missing_directory_is_the_same_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="available: none"):
        load_set(tmp_path / "nowhere", "tiny")


def test_a_broken_row_is_named_by_file_and_line(tmp_path: Path) -> None:
    write_set(tmp_path, "broken", DOCUMENTS, [QUESTIONS[0], {"id": "q2", "question": "?"}])
    with pytest.raises(DataError, match=r"broken.qa.jsonl.gz, line 2: answers"):
        load_set(tmp_path, "broken")


def test_a_file_that_is_no_gzip_is_a_clear_error(tmp_path: Path) -> None:
    write_tiny_set(tmp_path)
    (tmp_path / "tiny.docs.jsonl.gz").write_bytes(b"plain")
    with pytest.raises(DataError, match=r"tiny\.docs\.jsonl\.gz"):
        load_set(tmp_path, "tiny")


def test_a_gold_document_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    write_set(tmp_path, "odd", DOCUMENTS[:2], QUESTIONS)
    with pytest.raises(DataError, match="'d3'"):
        load_set(tmp_path, "odd")


def test_a_sample_is_seeded_and_keeps_the_order(tmp_path: Path) -> None:
    questions = [
        {"id": f"q{n:03}", "question": "?", "answers": ["x"], "doc_ids": ["d1"]} for n in range(100)
    ]
    write_set(tmp_path, "long", DOCUMENTS, questions)
    found = load_set(tmp_path, "long")
    first = found.sample(10, seed=0)
    assert first == found.sample(10, seed=0)
    assert first != found.sample(10, seed=1)
    assert [one.id for one in first] == sorted(one.id for one in first)
    assert len({one.id for one in first}) == 10
    assert found.sample(None, seed=0) == found.sample(1000, seed=0) == found.questions
