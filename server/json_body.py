"""Reading JSON strictly: bounded while it streams in, UTF-8 only, no NaN, nothing lost silently."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from paramem.settings import Settings
from server.errors import ApiError

DISCARDED_BYTES = 64 << 20
"""How much of a refused body is still read: a client that is cut off while it sends reports a
broken connection instead of the 413."""
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def max_body_bytes(settings: Settings) -> int:
    """A text of the allowed size, with room for its escapes: JSON's ``\\uXXXX`` takes up to three
    times the UTF-8 bytes of what is not ASCII."""
    return 3 * settings.max_document_bytes + (64 << 10)


def body_too_large(limit: int, *, headers: Mapping[str, str] | None = None) -> ApiError:
    return ApiError(
        413,
        "body_too_large",
        f"the document is above this server's limit of {limit} bytes as JSON: split it into "
        "several documents or raise PARAMEM_MAX_DOCUMENT_BYTES",
        headers=headers,
    )


def parse_json(raw: bytes, *, what: str = "the body", param: str | None = None) -> Any:
    """Raises: ApiError 400 for what is not JSON, 422 for JSON that is not Unicode text."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ApiError(
            400,
            "not_utf8",
            f"{what} is not UTF-8 (byte {error.start}): send UTF-8",
            param=param,
        ) from None
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise ApiError(
            400,
            "invalid_json",
            f"{what} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}",
            param=param,
        ) from None
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ApiError(400, "invalid_json", f"{what} is not JSON: {reason}", param=param) from None
    if SURROGATE.search(text):
        _refuse_lone_surrogates(value, what, param)
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _refuse_lone_surrogates(value: Any, what: str, param: str | None) -> None:
    fields = value.items() if isinstance(value, dict) else [(param, value)]
    for name, item in fields:
        try:
            json.dumps([name, item], ensure_ascii=False).encode()
        except UnicodeEncodeError:
            field = name if name and name.isprintable() else None
            raise ApiError(
                422,
                "lone_surrogate",
                f"{field or what} holds half of a surrogate pair, which is not a character: "
                "send valid Unicode",
                param=field,
            ) from None


def check_content_type(request: Request, *subtypes: str) -> None:
    """Raises: ApiError 415. A browser cannot send these types to a foreign origin unasked."""
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    kind, _, subtype = given.partition("/")
    if kind != "application" or subtype not in subtypes:
        raise ApiError(
            415,
            "unsupported_media_type",
            f"send Content-Type: application/{subtypes[0]}" + (f", not {given}" if given else ""),
            param="Content-Type",
        )


class JsonRequest(Request):
    """A request whose body is read with a limit and parsed strictly."""

    async def body(self) -> bytes:
        if not hasattr(self, "_body"):
            limit = max_body_bytes(self.app.state.services.settings)
            read, chunks = 0, list[bytes]()
            async for chunk in self.stream():
                read += len(chunk)
                if read > limit + DISCARDED_BYTES:
                    raise body_too_large(limit, headers={"Connection": "close"})
                if read <= limit:
                    chunks.append(chunk)
                else:
                    chunks.clear()
            if read > limit:
                raise body_too_large(limit)
            if read:
                check_content_type(self, "json")
            self._body = b"".join(chunks)
        return self._body

    async def json(self) -> Any:
        return parse_json(await self.body())


class JsonRoute(APIRoute):
    """A route that reads its body as a :class:`JsonRequest`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handler(JsonRequest(request.scope, request.receive))

        return handle
