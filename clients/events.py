"""The events of a streamed answer and of a watched job, decoded from server-sent events."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from httpx_sse import ServerSentEvent

from clients.errors import APIError, ProtocolError
from clients.results import Answer, ErrorBody, Job, SelectedMemory


@dataclass(frozen=True, slots=True)
class MemoriesEvent:
    """First: what the answer will be generated from."""

    memories: tuple[SelectedMemory, ...]


@dataclass(frozen=True, slots=True)
class DeltaEvent:
    """Then, any number of times: the next piece of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class DoneEvent:
    """Last: the same object an answer that is not streamed has."""

    answer: Answer


QueryEvent = MemoriesEvent | DeltaEvent | DoneEvent
Event = TypeVar("Event")


@dataclass(frozen=True, slots=True)
class EventKind(Generic[Event]):
    """How the events of one kind of stream are read, and which of them ends it."""

    decode: Callable[[ServerSentEvent], Event | None]
    is_last: Callable[[Event], bool]


def decode_query_event(event: ServerSentEvent) -> QueryEvent | None:
    """None for an event this client does not know (a newer server's).

    Raises: APIError for the server's ``error`` event, ProtocolError for broken data.
    """
    if event.event == "memories":
        memories = _object(event).get("memories", ())
        return MemoriesEvent(tuple(SelectedMemory.model_validate(item) for item in memories))
    if event.event == "delta":
        return DeltaEvent(str(_object(event).get("text", "")))
    if event.event == "done":
        return DoneEvent(Answer.model_validate(_object(event)))
    _raise_error_event(event)
    return None


def decode_job_event(event: ServerSentEvent) -> Job | None:
    """As :func:`decode_query_event`, for ``/jobs/{id}/events``."""
    if event.event == "job":
        return Job.model_validate(_object(event))
    _raise_error_event(event)
    return None


QUERY_EVENTS: EventKind[QueryEvent] = EventKind(
    decode_query_event, lambda event: isinstance(event, DoneEvent)
)
JOB_EVENTS: EventKind[Job] = EventKind(decode_job_event, lambda job: job.is_final)


def _raise_error_event(event: ServerSentEvent) -> None:
    if event.event == "error":
        body = ErrorBody.model_validate(_object(event).get("error") or {})
        raise APIError(body.message, code=body.code, param=body.param, request_id=body.request_id)


def _object(event: ServerSentEvent) -> dict[str, Any]:
    try:
        data = json.loads(event.data)
    except ValueError as error:
        raise ProtocolError(f"the {event.event!r} event is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise ProtocolError(f"the {event.event!r} event is not a JSON object")
    return data
