"""What an evaluation does: which set, written how, asked how."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from clients.calls import READ_ALL, QueryOptions
from clients.evaluation.data import Question
from clients.results import CodeFormat, Context, WriteMode


class Setting(StrEnum):
    """What the LLM is given with a question. "oracle": the gold documents instead of selection."""

    MEMORY = "memory"
    MEMORY_ORACLE = "memory-oracle"
    TEXT = "text"
    TEXT_ORACLE = "text-oracle"
    CLOSED = "closed"

    @property
    def context(self) -> Context:
        if self is Setting.CLOSED:
            return "none"
        return "text" if self in (Setting.TEXT, Setting.TEXT_ORACLE) else "memory"

    @property
    def is_oracle(self) -> bool:
        return self in (Setting.MEMORY_ORACLE, Setting.TEXT_ORACLE)

    @property
    def selects(self) -> bool:
        """Whether recall says something about the selector."""
        return self in (Setting.MEMORY, Setting.TEXT)


@dataclass(frozen=True, slots=True)
class Plan:
    set_name: str
    settings: tuple[Setting, ...]
    mode: WriteMode = "auto"
    collection: str | None = None  # None: one of its own, named after set, mode, m and format
    slots: int | None = None  # m; None = the server's
    code_format: CodeFormat | None = None  # None = the server's
    limit: int | None = None  # questions; None = all
    seed: int = 0
    concurrency: int = 1
    top_k: int = 5  # K
    selection: str | None = None  # None = the server's
    score_margin: float | None = None  # of memories that are read; None = the server's
    coarse_slots: int | None = None  # of memories after the best; None = the server's
    max_new_tokens: int = 24
    reconstruct: int = 8  # documents recited for ROUGE-L
    reconstruct_tokens: int = 200  # longest recitation of a passage

    @property
    def collection_name(self) -> str:
        if self.collection is not None:
            return self.collection
        parts = ["eval", self.set_name, self.mode]
        parts += [f"m{self.slots}"] if self.slots else []
        parts += [self.code_format] if self.code_format else []
        return re.sub(r"[^a-z0-9-]+", "-", "-".join(parts).lower())

    def query_options(self, setting: Setting, question: Question) -> QueryOptions:
        options: QueryOptions = {
            "collection": self.collection_name,
            "context": setting.context,
            "max_new_tokens": self.max_new_tokens,
            "temperature": 0.0,
        }
        if setting is not Setting.CLOSED:
            options["top_k"] = self.top_k
            if self.selection is not None:
                options["selection"] = self.selection
            options["score_margin"] = self.score_margin
            options["coarse_slots"] = self.coarse_slots
        if setting.is_oracle:
            options["filters"] = {"document_id": list(question.doc_ids)}
            options["score_margin"] = READ_ALL  # all of them are gold
        return options
