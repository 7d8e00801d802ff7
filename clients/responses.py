"""From an HTTP response to a typed result or a typed error."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from clients.errors import BY_STATUS, APIError, ProtocolError
from clients.results import ErrorBody
from clients.retries import parse_retry_after_s

Model = TypeVar("Model", bound=BaseModel)


def raise_for_error(response: httpx.Response, answers: Sequence[int] = ()) -> None:
    """Raise the :class:`APIError` a read response stands for.

    A success, or a status in ``answers`` whose body is not an error object, passes.
    """
    if response.is_success or (response.status_code in answers and not _has_error(response)):
        return
    try:
        body = ErrorBody.model_validate(response.json()["error"])
    except (ValueError, KeyError, TypeError):  # a proxy's page, or some other server
        body = ErrorBody(message=f"{response.url} answered HTTP {response.status_code}")
    raise BY_STATUS.get(response.status_code, APIError)(
        body.message,
        status=response.status_code,
        code=body.code,
        param=body.param,
        request_id=body.request_id or response.headers.get("x-request-id"),
        retry_after_s=parse_retry_after_s(response.headers.get("retry-after")),
    )


def _has_error(response: httpx.Response) -> bool:
    try:
        body = response.json()
    except ValueError:
        return True
    return not isinstance(body, dict) or "error" in body


def parse_as(model: type[Model]) -> Callable[[httpx.Response], Model]:
    """A parser of JSON bodies. It raises ProtocolError on anything else."""

    def parse(response: httpx.Response) -> Model:
        return validate(model, parse_json(response.text, response), response)

    return parse


def parse_json(text: str, response: httpx.Response) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ProtocolError(
            f"{response.url} did not answer JSON; is it a paramem server?"
        ) from error


def validate(model: type[Model], data: Any, response: httpx.Response) -> Model:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ProtocolError(
            f"{response.url} answered something else than {model.__name__} "
            f"({field}: {first['msg']}); is it a paramem server of this version?"
        ) from error
