"""Every error of the house has a status; strangers tell nothing."""

from __future__ import annotations

import inspect

import pytest
from starlette.exceptions import HTTPException

from memory_store import errors as store_errors
from server.engine import generator
from server.errors import TYPES, ApiError, as_api_error

EXPECTED = {
    "NotFoundError": 404,
    "ConflictError": 409,
    "FingerprintMismatchError": 409,
    "QuantiserMissingError": 409,
    "IdempotencyConflictError": 409,
    "LeaseLostError": 409,
    "QueueFullError": 429,
    "DiskFullError": 507,
    "DiskFailedError": 503,
    "InvalidCursorError": 422,
    "InvalidFilterError": 422,
    "CorruptionError": 500,
    "InvalidMemoryError": 500,  # a worker's, not a client's
    "IncompatibleFormatError": 500,
    "EngineNotReadyError": 503,
    "PromptTooLongError": 422,
    "SelectionUnavailableError": 422,
}


def house_errors() -> list[type[Exception]]:
    bases = (store_errors.StoreError, generator.EngineError)
    return [
        kind
        for module in (store_errors, generator)
        for _name, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, bases) and kind not in bases
    ]


@pytest.mark.parametrize("kind", house_errors(), ids=lambda kind: kind.__name__)
def test_every_error_of_the_house_keeps_its_code_and_message(kind: type[Exception]) -> None:
    extra = {"retry_after_s": 6.2} if kind.__name__ == "QueueFullError" else {}
    told = as_api_error(kind("do this instead", **extra))
    assert told.status_code == EXPECTED[kind.__name__]
    assert (told.code, told.message) == (kind.code, "do this instead")  # type: ignore[attr-defined]


def test_retry_after_is_whole_seconds_and_never_zero() -> None:
    for given, sent in ((0.1, "1"), (6.2, "7")):
        headers = ApiError(429, "x", "y", retry_after_s=given).headers or {}
        assert headers["Retry-After"] == sent


def test_a_stranger_is_an_internal_error_without_its_message() -> None:
    told = as_api_error(KeyError("/secret"))
    assert (told.status_code, told.code) == (500, "internal_error")
    assert "secret" not in str(told.body())


def test_refusals_of_the_framework_keep_their_status_and_headers() -> None:
    told = as_api_error(HTTPException(405, headers={"Allow": "GET"}))
    assert (told.status_code, told.headers) == (405, {"Allow": "GET"})


def test_every_status_has_a_type() -> None:
    for status in {*EXPECTED.values()} - {500}:
        assert status in TYPES
