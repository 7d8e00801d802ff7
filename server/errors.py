"""The one error shape of the HTTP surface, and what each refusal of the house becomes in it.

``{"error": {"type", "code", "message", "param", "request_id"}}``: ``type`` follows from the
status, ``code`` is stable, ``message`` says what to do, ``param`` names the field.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from asgi_correlation_id import correlation_id
from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException

from memory_store.errors import (
    ConflictError,
    DiskFailedError,
    DiskFullError,
    InvalidCursorError,
    InvalidFilterError,
    NotFoundError,
    QueueFullError,
    StoreError,
)
from server.engine.generator import (
    EngineError,
    EngineNotReadyError,
    PromptTooLongError,
    SelectionUnavailableError,
)

log = structlog.get_logger(__name__)

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "invalid_request_error",
    409: "conflict_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    422: "invalid_request_error",
    429: "overloaded_error",
    503: "unavailable_error",
    507: "storage_error",
}
STATUSES: Sequence[tuple[type[Exception], int]] = (
    (NotFoundError, 404),
    (ConflictError, 409),
    (QueueFullError, 429),
    (DiskFullError, 507),
    (DiskFailedError, 503),
    (InvalidCursorError, 422),
    (InvalidFilterError, 422),
    (EngineNotReadyError, 503),
    (PromptTooLongError, 422),
    (SelectionUnavailableError, 422),
)
MOST_PROBLEMS = 5  # of one request, named in one message


class ErrorObject(BaseModel):
    type: str
    code: str
    message: str
    param: str | None = None
    request_id: str | None = None


class ErrorResponse(BaseModel):
    """Body of every answer with a status of 400 or above."""

    error: ErrorObject


class ApiError(HTTPException):
    """A refusal with everything the client is told."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        sent = dict(headers or {})
        if retry_after_s is not None:
            sent["Retry-After"] = str(max(1, math.ceil(retry_after_s)))
        super().__init__(status, message, sent or None)
        self.code = code
        self.message = message
        self.param = param

    def body(self) -> dict[str, Any]:
        """The JSON body, with the id of the request being handled."""
        error = ErrorObject(
            type=TYPES.get(self.status_code, "internal_error"),
            code=self.code,
            message=self.message,
            param=self.param,
            request_id=correlation_id.get(),
        )
        return {"error": error.model_dump()}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body(), self.status_code, self.headers)


def as_api_error(error: Exception) -> ApiError:
    """What the client is told of ``error``. An unexpected one is logged, never shown."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, (RequestValidationError, ValidationError)):
        return _of_validation(error.errors())
    if isinstance(error, (StoreError, EngineError)):
        return _of_house(error)
    if isinstance(error, StarletteHTTPException):
        return _of_framework(error)
    log.error("unhandled_error", error=type(error).__name__, exc_info=error)
    return ApiError(
        500,
        "internal_error",
        "something went wrong in the server; its log has the details under this request id",
    )


def _of_house(error: StoreError | EngineError) -> ApiError:
    status = next((status for kind, status in STATUSES if isinstance(error, kind)), 500)
    if status == 500:
        log.error("house_error", code=error.code, exc_info=error)
    return ApiError(
        status,
        error.code,
        str(error),
        param=_param(error),
        retry_after_s=getattr(error, "retry_after_s", None),
    )


def _param(error: StoreError | EngineError) -> str | None:
    if isinstance(error, SelectionUnavailableError):
        return "selection"
    return error.param if isinstance(error, StoreError) else None


def _of_framework(error: StarletteHTTPException) -> ApiError:
    known = {
        404: ("route_not_found", "there is no such route; /docs lists those there are"),
        405: ("method_not_allowed", "this route does not take this method; see the Allow header"),
        400: ("invalid_body", "the body could not be read; send it whole, as UTF-8 JSON"),
    }
    code, message = known.get(error.status_code, ("http_error", str(error.detail)))
    return ApiError(error.status_code, code, message, headers=error.headers)


def _of_validation(problems: Sequence[Any]) -> ApiError:
    first = problems[0]
    told = [_told(problem) for problem in problems[:MOST_PROBLEMS]]
    if len(problems) > MOST_PROBLEMS:
        told.append(f"and {len(problems) - MOST_PROBLEMS} more")
    return ApiError(422, str(first["type"]), "; ".join(told), param=_field(first) or None)


def _told(problem: Any) -> str:
    field = _field(problem)
    if problem["type"] == "extra_forbidden":
        return f"{field}: there is no such field"
    if problem["type"] == "missing":
        return f"{field or 'the body'}: required, but missing"
    message = str(problem["msg"])
    return f"{field}: {message[:1].lower()}{message[1:]}" if field else message


def _field(problem: Any) -> str:
    """``metadata.year`` of ``("body", "metadata", "year")``."""
    path = [str(part) for part in problem["loc"]]
    return ".".join(path[1:] if path[:1] in (["body"], ["query"], ["path"], ["header"]) else path)


async def _handle(_request: Request, error: Exception) -> JSONResponse:
    return as_api_error(error).response()


def install_error_handlers(app: FastAPI) -> None:
    """Unexpected exceptions are left to the outermost middleware, which sees all of them."""
    for kind in (StoreError, EngineError, RequestValidationError, StarletteHTTPException):
        app.add_exception_handler(kind, _handle)
