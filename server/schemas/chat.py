"""Bodies of ``/v1``: OpenAI's shape, so that existing clients and load generators fit.

Fields that clients send out of habit and that change nothing here (``top_p``, ``user`` …) are
ignored; those that would change what the answer is are refused.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from memory_store.records import DEFAULT_COLLECTION
from server.errors import ApiError
from server.schemas.requests import MAX_SLOTS, QueryBody
from server.schemas.results import AnswerResult, SelectedMemory

MODEL = "paramem"
DEFAULT_NEW_TOKENS = 64


class _Given(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class ContentPart(_Given):
    type: str
    text: str | None = None


class Message(_Given):
    role: str
    content: str | list[ContentPart] | None = None

    def text(self) -> str:
        """Raises: ApiError 422 for content that is not text."""
        if not isinstance(self.content, list):
            return self.content or ""
        for part in self.content:
            if part.type != "text":
                raise ApiError(
                    422,
                    "content_unsupported",
                    f"content of type {part.type!r} cannot be read: send text",
                    param="messages",
                )
        return "\n".join(part.text or "" for part in self.content)


class StreamOptions(_Given):
    include_usage: bool = False


class MemoryOptions(BaseModel):
    """What ``POST /query`` has and OpenAI's shape has not; clients send it as an extra field."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    top_k: int = Field(default=5, ge=1)
    selection: Literal["cosine", "router", "attention", "bm25", "hybrid"] | None = None
    context: Literal["memory", "text", "none"] | None = None
    score_margin: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    coarse_slots: int | None = Field(default=None, ge=1, le=MAX_SLOTS)
    filters: dict[str, Any] | None = None
    read_after: str | None = None


class ChatBody(_Given):
    """A chat whose last user message is the question. Earlier messages are not read."""

    model: str
    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0.0, le=2.0, description="Default 0, greedy.")
    seed: int | None = Field(None, ge=0, lt=1 << 63)
    ignore_eos: bool = Field(default=False, description="As vLLM has it: for load tests.")
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int | None = Field(None, ge=1, le=1, description="One answer to a question.")
    tools: list[Any] | None = Field(None, max_length=0, description="Tools are not called.")
    logprobs: Literal[False] | None = None
    paramem: MemoryOptions = MemoryOptions()

    def query(self) -> QueryBody:
        """The same question as ``POST /query`` takes it.

        Raises:
            ApiError: 404 for another model, 422 without a user message.
            pydantic.ValidationError: the question or an option is not one.
        """
        asked = [message for message in self.messages if message.role == "user"]
        if not asked:
            raise ApiError(
                422,
                "no_user_message",
                "messages hold none of role user to answer",
                param="messages",
            )
        wanted = self.max_completion_tokens or self.max_tokens or DEFAULT_NEW_TOKENS
        return QueryBody(
            query=asked[-1].text(),
            collection=collection_of(self.model),
            max_new_tokens=wanted,
            temperature=self.temperature or 0.0,
            seed=self.seed,
            ignore_eos=self.ignore_eos,
            stream=self.stream,
            **self.paramem.model_dump(),
        )


def collection_of(model: str) -> str:
    """``paramem`` or ``paramem@collection``. Raises: ApiError 404."""
    name, at, collection = model.partition("@")
    if name != MODEL or (at and not collection):
        raise ApiError(
            404,
            "model_not_found",
            f"there is no model {model!r}: ask {MODEL!r}, or {MODEL + '@'!r} and a collection",
            param="model",
        )
    return collection or DEFAULT_COLLECTION


class ChatUsage(BaseModel):
    """``prompt_tokens`` counts positions: tokens and memory slots."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int

    @classmethod
    def of(cls, answer: AnswerResult) -> ChatUsage:
        prompt, completion = answer.usage.prompt_tokens, answer.usage.completion_tokens
        return cls(
            prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion
        )


class AssistantMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str


class Choice(BaseModel):
    index: int = 0
    message: AssistantMessage
    finish_reason: str | None


class ChatResult(BaseModel):
    """OpenAI's chat completion, with the memories it was answered from."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: ChatUsage
    memories: list[SelectedMemory]


class ModelResult(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = MODEL


class ModelsResult(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelResult]
