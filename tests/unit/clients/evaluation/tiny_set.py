"""Writes a made-up question set in the format of the data directory."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

DOCUMENTS = [
    {"id": "d1", "title": "Otters", "text": "otters sleep in kelp"},
    {"id": "d2", "title": "Herons", "text": "herons fish at dawn"},
    {"id": "d3", "title": "Moths", "text": "moths love lamps"},
]
QUESTIONS = [
    {"id": "q1", "question": "Where do otters sleep?", "answers": ["kelp"], "doc_ids": ["d1"]},
    {"id": "q2", "question": "When do herons fish?", "answers": ["at dawn"], "doc_ids": ["d2"]},
    {"id": "q3", "question": "What do moths love?", "answers": ["candles"], "doc_ids": ["d3"]},
]


def write_set(directory: Path, name: str, documents: list[Any], questions: list[Any]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for kind, rows in (("docs", documents), ("qa", questions)):
        with gzip.open(directory / f"{name}.{kind}.jsonl.gz", "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)


def write_tiny_set(directory: Path) -> Path:
    write_set(directory, "tiny", DOCUMENTS, QUESTIONS)
    return directory
