"""Question sets: ``<set>.docs.jsonl.gz`` and ``<set>.qa.jsonl.gz`` in one directory."""

from __future__ import annotations

import gzip
import random
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from clients.errors import ParamemError

DOCS, QUESTIONS = ".docs.jsonl.gz", ".qa.jsonl.gz"
Row = TypeVar("Row", bound=BaseModel)


class DataError(ParamemError):
    """The set is not there or not readable; the message says which sets are."""


class EvalDocument(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    title: str | None = None
    text: str


class Question(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    question: str
    answers: tuple[str, ...]  # accepted ones, at least one
    doc_ids: tuple[str, ...] = ()  # the gold documents
    hop: int = 1


@dataclass(frozen=True, slots=True)
class QuestionSet:
    name: str
    documents: tuple[EvalDocument, ...]
    questions: tuple[Question, ...]

    def sample(self, limit: int | None, seed: int) -> tuple[Question, ...]:
        """``limit`` questions drawn without replacement, in the set's order; None = all."""
        if limit is None or limit >= len(self.questions):
            return self.questions
        chosen = set(random.Random(seed).sample(range(len(self.questions)), limit))
        return tuple(question for i, question in enumerate(self.questions) if i in chosen)


def load_set(directory: Path, name: str) -> QuestionSet:
    """Raises: DataError."""
    paths = directory / f"{name}{DOCS}", directory / f"{name}{QUESTIONS}"
    if not all(path.is_file() for path in paths):
        known = ", ".join(available_sets(directory)) or "none"
        raise DataError(f"no question set {name!r} in {directory}; available: {known}")
    documents = _read(paths[0], EvalDocument)
    questions = _read(paths[1], Question)
    unknown = {id for question in questions for id in question.doc_ids} - {
        document.id for document in documents
    }
    if unknown:
        raise DataError(f"{paths[1]}: gold document {min(unknown)!r} is not in {paths[0].name}")
    if not documents or not questions:
        raise DataError(f"question set {name!r} in {directory} is empty")
    return QuestionSet(name, documents, questions)


def available_sets(directory: Path) -> list[str]:
    """Names for which both files are there."""
    named = (path.name.removesuffix(QUESTIONS) for path in directory.glob(f"*{QUESTIONS}"))
    return sorted(name for name in named if (directory / f"{name}{DOCS}").is_file())


def _read(path: Path, row: type[Row]) -> tuple[Row, ...]:
    rows: list[Row] = []
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            rows.extend(row.model_validate_json(line) for line in lines)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{path}, line {len(rows) + 1}: {where}: {first['msg']}") from error
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: {error}") from error
    return tuple(rows)
