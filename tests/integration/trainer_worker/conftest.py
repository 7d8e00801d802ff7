"""Data to train on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Ten documents on two topics, two questions each."""
    folder = tmp_path / "data"
    folder.mkdir()
    documents, questions = [], []
    for number in range(10):
        name = f"Person{number}"
        documents.append(
            {
                "id": f"d{number}",
                "title": f"topic {number % 2}",
                "text": f"{name} lives in town {number * 7} and has a cat of {number + 2} years.",
            }
        )
        for asked, answer in (("Where is the home?", f"town {number * 7}"), ("Age?", "cat")):
            questions.append(
                {"question": f"{name}: {asked}", "answers": [answer], "doc_ids": [f"d{number}"]}
            )
    (folder / "toy-train.docs.jsonl").write_text("\n".join(map(json.dumps, documents)))
    (folder / "toy-train.qa.jsonl").write_text("\n".join(map(json.dumps, questions)))
    return folder
