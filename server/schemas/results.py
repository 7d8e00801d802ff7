"""Results of the routes. Timestamps are Unix seconds, for display only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, Self, TypeVar

from pydantic import BaseModel

from memory_store import records
from server.engine.generator import LEXICAL, EngineInfo

Item = TypeVar("Item")


class ListResult(BaseModel, Generic[Item]):
    items: list[Item]
    next_cursor: str | None


class JobError(BaseModel):
    code: str
    message: str

    @classmethod
    def of(cls, code: str | None, message: str | None) -> Self | None:
        """None where a job has no error."""
        return None if code is None else cls(code=code, message=message or code)


class JobResult(BaseModel):
    """The work of turning one document version into memories."""

    job_id: str
    collection: str
    document_id: str
    version: int
    tier: records.Tier
    mode: records.WriteMode
    status: records.JobStatus
    progress: float
    attempts: int
    max_attempts: int
    error: JobError | None
    result: Mapping[str, Any] | None
    refine_job_id: str | None
    created_at: float
    started_at: float | None
    finished_at: float | None

    @classmethod
    def of(cls, job: records.Job) -> Self:
        error = JobError.of(job.error_code, job.error_message)
        fields = {name: getattr(job, name) for name in cls.model_fields if name != "error"}
        return cls(error=error, **fields)


class PassageResult(BaseModel):
    """One stored passage memory."""

    passage: int
    tier: records.Tier
    fingerprint: str
    bytes: int
    num_tokens: int
    text_start: int
    text_end: int
    stats: Mapping[str, float]
    created_at: float

    @classmethod
    def of(cls, memory: records.Memory) -> Self:
        fields = {name: getattr(memory, name) for name in cls.model_fields if name != "bytes"}
        return cls(bytes=memory.num_bytes, **fields)


class MemoryResult(BaseModel):
    """A document as it is remembered. Its first memories may still be being written."""

    document_id: str
    collection: str
    version: int
    title: str | None
    metadata: Mapping[str, Any]
    tier: records.Tier | None
    fingerprint: str | None
    bytes: int
    num_passages: int
    num_chars: int
    has_text: bool
    created_at: float

    @staticmethod
    def _fields(document: records.Document) -> dict[str, Any]:
        first = document.memories[0] if document.memories else None
        return {
            "document_id": document.document_id,
            "collection": document.collection,
            "version": document.version,
            "title": document.title,
            "metadata": document.metadata,
            "tier": first.tier if first else None,
            "fingerprint": first.fingerprint if first else None,
            "bytes": document.num_bytes,
            "num_passages": len(document.memories),
            "num_chars": document.num_chars,
            "has_text": document.has_text,
            "created_at": document.created_at,
        }

    @classmethod
    def of(cls, document: records.Document) -> Self:
        return cls(**cls._fields(document))


class MemoryDetail(MemoryResult):
    passages: list[PassageResult]

    @classmethod
    def of(cls, document: records.Document) -> Self:
        passages = [PassageResult.of(memory) for memory in document.memories]
        return cls(passages=passages, **cls._fields(document))


class DeletedResult(BaseModel):
    deleted: int


class ReconstructedPassage(BaseModel):
    passage: int
    text: str
    num_tokens: int
    finish_reason: str | None


class ReconstructionResult(BaseModel):
    """What the LLM recites from each memory of a document alone (greedy)."""

    document_id: str
    passages: list[ReconstructedPassage]


class CollectionResult(BaseModel):
    name: str
    fingerprint: str
    slots: int
    z_dim: int
    code_format: records.CodeFormat
    documents: int
    memories: int
    created_at: float

    @classmethod
    def of(cls, collection: records.Collection) -> Self:
        spec = collection.spec
        return cls(
            name=collection.name,
            fingerprint=spec.fingerprint,
            slots=spec.slots,
            z_dim=spec.z_dim,
            code_format=spec.code_format,
            documents=collection.documents,
            memories=collection.memories,
            created_at=collection.created_at,
        )


class SelectedMemory(BaseModel):
    document_id: str
    passage: int
    score: float
    title: str | None
    metadata: Mapping[str, Any]
    read: bool
    """Whether the LLM was given it: its score is near enough to the best's."""

    @classmethod
    def of(cls, hit: records.Hit, *, read: bool) -> Self:
        return cls(
            document_id=hit.memory.document_id,
            passage=hit.memory.passage,
            score=hit.score,
            title=hit.title,
            metadata=hit.metadata,
            read=read,
        )


class Usage(BaseModel):
    prompt_tokens: int
    memory_slots: int
    completion_tokens: int


class AnswerResult(BaseModel):
    """``timings_ms``: select (of which embed), load, queue, expand, prefill, decode, ttft, total;
    ``wait`` (for ``read_after``) is not part of ttft and total."""

    answer: str
    memories: list[SelectedMemory]
    usage: Usage
    timings_ms: dict[str, float]
    finish_reason: str | None


class EngineResult(BaseModel):
    model: str
    fingerprint: str
    slots: int
    z_dim: int
    code_format: records.CodeFormat
    dtype: str
    device: str
    context_tokens: int
    selections: list[str]
    score_margin: float | None
    coarse_slots: int | None

    @classmethod
    def of(cls, info: EngineInfo) -> Self:
        return cls(
            model=info.model,
            fingerprint=info.spec.fingerprint,
            slots=info.spec.slots,
            z_dim=info.spec.z_dim,
            code_format=info.spec.code_format,
            dtype=info.dtype,
            device=info.device,
            context_tokens=info.context_tokens,
            selections=[*info.selections, *LEXICAL],
            score_margin=info.score_margin,
            coarse_slots=info.coarse_slots,
        )


class VersionResult(BaseModel):
    version: str
    engine: EngineResult | None


class HealthResult(BaseModel):
    status: str


class ReadinessResult(BaseModel):
    ready: bool
    checks: dict[str, dict[str, Any]]
