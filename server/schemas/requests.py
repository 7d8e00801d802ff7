"""Request bodies. Strict: wrong types, unknown fields and NaN are errors that name the field."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from memory_store.records import (
    DEFAULT_COLLECTION,
    CodeFormat,
    MemorySpec,
    WriteMode,
    WriteRequest,
)
from paramem.settings import Settings
from server.errors import ApiError
from server.schemas.text import CollectionName, DocumentId, Metadata, QueryText, Text, Title

MAX_SLOTS = 256


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class WriteBody(Body):
    """A document to remember. An ``id`` that exists is replaced by a new version."""

    text: Text
    id: DocumentId | None = None
    title: Title | None = None
    metadata: Metadata = {}
    collection: CollectionName = DEFAULT_COLLECTION
    mode: Literal["fast", "fit", "auto"] = "auto"
    keep_text: bool = True

    def checked(self, settings: Settings) -> WriteRequest:
        """Raises: ApiError 413 when the text is above the server's limit."""
        num_bytes = len(self.text.encode())
        if num_bytes > settings.max_document_bytes:
            raise ApiError(
                413,
                "document_too_large",
                f"text has {num_bytes} bytes, the limit is {settings.max_document_bytes}: split "
                "it into several documents or raise PARAMEM_MAX_DOCUMENT_BYTES",
                param="text",
            )
        return WriteRequest(
            text=self.text,
            document_id=self.id,
            title=self.title,
            metadata=self.metadata,
            collection=self.collection,
            mode=WriteMode(self.mode),
            keep_text=self.keep_text,
        )


class QueryBody(Body):
    """A question, what to select for it, and how to answer."""

    query: QueryText
    top_k: int = Field(5, ge=1, description="K: memories to select.")
    collection: CollectionName = DEFAULT_COLLECTION
    selection: Literal["cosine", "router", "attention", "bm25", "hybrid"] | None = Field(
        None,
        description="router, cosine: by the memories' keys; attention: the router's best, "
        "re-ranked by their slots; bm25: by the words of the texts, where they were kept; "
        "hybrid: router and bm25 fused. By default the first that /version names: attention, or "
        "router without a trained bundle.",
    )
    context: Literal["memory", "text", "none"] | None = Field(
        None,
        description="What the LLM is given: the selected memories, the same passages as text, or "
        "nothing (closed book). By default memories; text where there are none.",
    )
    score_margin: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="Of the selected memories those are read whose score is at most so far below "
        "the best's; a large margin reads all. By default what /version says for attention "
        "(null = all), and all for other selections.",
    )
    coarse_slots: int | None = Field(
        None,
        ge=1,
        le=MAX_SLOTS,
        description="The best memory is read whole, each of the others in so many slots: fewer "
        "are read faster, as many as a memory has are all. By default what /version says "
        "(null = all).",
    )
    filters: Metadata | None = Field(
        None,
        description="Metadata equality; a list means any of. document_id and title work too.",
    )
    max_new_tokens: int = Field(64, ge=1)
    ignore_eos: bool = Field(
        False, description="Go on to max_new_tokens whatever the LLM says: for load tests."
    )
    temperature: float = Field(0.0, ge=0.0, le=2.0, description="0 is greedy.")
    seed: int | None = Field(None, ge=0, lt=1 << 63)
    stream: bool = Field(False, description="Answer as server-sent events.")
    read_after: str | None = Field(
        None,
        min_length=1,
        max_length=256,
        description="A job_id: select only after this write is readable.",
    )

    def check_limits(self, settings: Settings) -> None:
        """Raises: ApiError 422 when a number is above the server's limit."""
        for name, most in (
            ("top_k", settings.max_top_k),
            ("max_new_tokens", settings.max_new_tokens),
        ):
            if getattr(self, name) > most:
                raise ApiError(
                    422, "less_than_equal", f"{name}: this server's limit is {most}", param=name
                )


class CollectionBody(Body):
    """What a new collection may choose; fingerprint and d are the loaded engine's."""

    slots: int | None = Field(default=None, ge=1, le=MAX_SLOTS)
    """m of its memories: fewer are smaller and read faster, more answer better. None = the
    server's."""
    code_format: Literal["bf16", "int8", "int4", "rq"] | None = None

    def spec(self, default: MemorySpec) -> MemorySpec:
        """The spec of the collection, where ``default`` is the loaded engine's."""
        return replace(
            default,
            slots=self.slots or default.slots,
            code_format=CodeFormat(self.code_format or default.code_format),
        )
