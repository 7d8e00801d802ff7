"""From single answers and memories to the numbers of the table, each with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from clients.evaluation.ask import AskedQuestion
from clients.evaluation.bootstrap import Estimate, estimate, percentile
from clients.evaluation.corpus import Corpus
from clients.evaluation.data import EvalDocument
from clients.evaluation.plan import Setting
from clients.evaluation.reconstruction import Likelihood
from clients.evaluation.retrieval import recall_at


@dataclass(frozen=True, slots=True)
class SettingResult:
    """``metrics`` that do not apply (recall of a closed book) are left out."""

    n: int
    errors: int  # refused questions: wrong answers, left out of the times
    metrics: Mapping[str, Estimate]
    server_ms: Mapping[str, float]  # mean of each stage the server reports

    @classmethod
    def of(cls, asked: Sequence[AskedQuestion], *, selects: bool, top_k: int) -> SettingResult:
        answered = [one for one in asked if one.error is None]
        ttft = [one.ttft_ms for one in answered]
        total = [one.total_ms for one in answered]
        found: dict[str, Estimate | None] = {
            "em": estimate([one.score.exact for one in asked]),
            "f1": estimate([one.score.f1 for one in asked]),
            "contains": estimate([one.score.contains for one in asked]),
        }
        if selects:
            for k in (1, 5):
                if k <= top_k:
                    found[f"recall_at_{k}"] = estimate(_recalls(asked, k))
        for q in (50, 95):
            found[f"ttft_ms_p{q}"] = estimate(ttft, percentile(q))
            found[f"total_ms_p{q}"] = estimate(total, percentile(q))
        return cls(
            n=len(asked),
            errors=len(asked) - len(answered),
            metrics={name: value for name, value in found.items() if value is not None},
            server_ms=_mean_stages(answered),
        )


@dataclass(frozen=True, slots=True)
class StoreResult:
    documents: int
    passages: int
    bytes_per_document: float
    bytes_per_passage: float
    text_bytes_per_document: float  # UTF-8, of the same documents
    documents_written: int
    write_s: float
    failures: tuple[str, ...]

    @classmethod
    def of(cls, corpus: Corpus, documents: Sequence[EvalDocument]) -> StoreResult:
        passages = [passage for memory in corpus.memories for passage in memory.passages]
        num_bytes = sum(passage.bytes for passage in passages)
        stored = {memory.document_id for memory in corpus.memories}
        text_bytes = sum(len(doc.text.encode()) for doc in documents if doc.id in stored)
        return cls(
            documents=len(stored),
            passages=len(passages),
            bytes_per_document=num_bytes / len(stored),
            bytes_per_passage=num_bytes / len(passages),
            text_bytes_per_document=text_bytes / len(stored),
            documents_written=corpus.written,
            write_s=corpus.write_s,
            failures=corpus.failures,
        )


@dataclass(frozen=True, slots=True)
class ReconstructionResult:
    likelihood: Likelihood | None
    rouge_l: Estimate | None

    def as_dict(self) -> dict[str, Any]:
        measured = self.likelihood
        numbers = (
            {
                "nats_removed_percent": measured.nats_removed_percent,
                "nats_per_token": measured.nats_per_token,
                "nats_per_token_without_memory": measured.nats_per_token_without_memory,
                "perplexity": measured.perplexity,
                "perplexity_without_memory": measured.perplexity_without_memory,
                "passages": measured.passages,
            }
            if measured
            else {}
        )
        return {**numbers, "rouge_l": asdict(self.rouge_l) if self.rouge_l else None}


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    facts: Mapping[str, Any]
    settings: Mapping[Setting, SettingResult]
    store: StoreResult
    reconstruction: ReconstructionResult
    asked: Mapping[Setting, Sequence[AskedQuestion]]


def _recalls(asked: Sequence[AskedQuestion], k: int) -> list[float]:
    recalls = (recall_at(k, one.document_ids, one.question.doc_ids) for one in asked)
    return [recall for recall in recalls if recall is not None]


def _mean_stages(answered: Sequence[AskedQuestion]) -> dict[str, float]:
    times: dict[str, list[float]] = {}
    for one in answered:
        for stage, ms in one.answer.timings_ms.items():
            times.setdefault(stage, []).append(ms)
    return {stage: sum(values) / len(values) for stage, values in times.items()}
