"""What the server answers, typed and frozen.

Fields a newer server adds are ignored, so an older client keeps working; fields that tell an
operator something but no client logic stands on are optional.
Times are Unix seconds of the server's clock, for display only; timings are milliseconds.
"""

from __future__ import annotations

from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

Item = TypeVar("Item")
WriteMode = Literal["fast", "fit", "auto"]
CodeFormat = Literal["bf16", "int8", "int4", "rq"]
Context = Literal["memory", "text", "none"]
FINAL = frozenset({"succeeded", "failed", "cancelled", "dead"})


class Result(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class ErrorBody(Result):
    """The inside of every error the server sends."""

    type: str = "error"
    code: str = "unknown"
    message: str = "no message"
    param: str | None = None
    request_id: str | None = None


class JobError(Result):
    code: str
    message: str


class Job(Result):
    """The work of turning one document version into memories."""

    job_id: str
    document_id: str
    collection: str = "default"
    version: int = 1
    tier: str = "fast"
    mode: str = "auto"
    status: str
    progress: float = 0.0  # 0 … 1
    attempts: int = 0
    max_attempts: int = 0
    error: JobError | None = None
    result: dict[str, Any] | None = None
    refine_job_id: str | None = None  # mode auto: the follow-up that refines the memory
    created_at: float | None = None
    started_at: float | None = None
    finished_at: float | None = None

    @property
    def is_final(self) -> bool:
        return self.status in FINAL

    @property
    def succeeded(self) -> bool:
        return self.status == "succeeded"


class BatchLine(Result):
    """What became of one document of a batch: a job, or the reason it was refused."""

    document_id: str
    job: Job | None = None
    error: ErrorBody | None = None


class SelectedMemory(Result):
    """A memory that was selected, best first."""

    document_id: str
    passage: int
    score: float
    title: str | None = None
    metadata: dict[str, Any] = {}
    read: bool = True  # by the LLM; False where its score is too far below the best's


class Usage(Result):
    prompt_tokens: int = 0
    memory_slots: int = 0
    completion_tokens: int = 0


class Answer(Result):
    answer: str
    memories: tuple[SelectedMemory, ...] = ()
    usage: Usage = Usage()
    timings_ms: dict[str, float] = {}  # select, load, prefill, ttft, total …
    finish_reason: str | None = None


class Passage(Result):
    """One stored passage memory."""

    passage: int
    tier: str
    fingerprint: str | None = None
    num_tokens: int = 0
    bytes: int = 0
    text_start: int = 0  # character span in the document's text
    text_end: int = 0
    stats: dict[str, Any] = {}


class Memory(Result):
    """A document as it is remembered. Lists may leave ``passages`` out."""

    document_id: str
    collection: str = "default"
    version: int = 1
    title: str | None = None
    metadata: dict[str, Any] = {}
    has_text: bool = False
    num_chars: int = 0
    bytes: int = 0
    created_at: float | None = None
    passages: tuple[Passage, ...] = ()


class ReconstructedPassage(Result):
    passage: int
    text: str
    num_tokens: int = 0


class Reconstruction(Result):
    """What the LLM says when it is asked to recite a memory (greedy)."""

    document_id: str
    passages: tuple[ReconstructedPassage, ...] = ()


class Collection(Result):
    name: str
    fingerprint: str | None = None
    slots: int | None = None  # m
    z_dim: int | None = None  # d
    code_format: str | None = None
    documents: int = 0
    memories: int = 0
    created_at: float | None = None


class Snapshot(Result):
    """A point in time that can be restored."""

    snapshot_id: str
    created_at: float | None = None
    bytes: int = 0
    documents: int = 0
    memories: int = 0
    fingerprints: tuple[str, ...] = ()  # of the bundles its memories need


class SnapshotJob(Result):
    """The work of taking or restoring a snapshot."""

    job_id: str
    work: str = "snapshot"
    snapshot_id: str | None = None  # None until it is taken
    status: str
    progress: float = 0.0  # 0 … 1
    error: JobError | None = None
    result: dict[str, Any] | None = None

    @property
    def is_final(self) -> bool:
        return self.status in FINAL


class Page(Result, Generic[Item]):
    items: tuple[Item, ...]
    next_cursor: str | None = None


class Readiness(Result):
    ready: bool
    checks: dict[str, Any] = {}


class Engine(Result):
    model: str
    fingerprint: str
    slots: int  # m
    z_dim: int  # d
    dtype: str = "unknown"
    device: str = "unknown"
    context_tokens: int | None = None
    selections: tuple[str, ...] = ()
    score_margin: float | None = None  # of memories that attention's queries read; None = all
    coarse_slots: int | None = None  # of memories after the best; None = all


class Version(Result):
    version: str
    engine: Engine | None = None  # None while the engine loads
