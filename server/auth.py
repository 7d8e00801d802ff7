"""API keys: ``Authorization: Bearer``, compared in constant time."""

from __future__ import annotations

import hmac
from pathlib import Path

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from server.errors import ApiError

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})


class ApiKeyFileError(ValueError):
    """The key file cannot be used; the message names the setting."""


def load_api_keys(path: Path | None) -> tuple[bytes, ...]:
    """One key a line; blank lines and ``#`` comments are skipped. No file: no keys, open access.

    Raises: ApiKeyFileError for a file that cannot be read or holds no key.
    """
    if path is None:
        return ()
    try:
        lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ApiKeyFileError(f"PARAMEM_API_KEY_FILE {path} cannot be read: {error}") from error
    keys = tuple(line.encode() for line in lines if line and not line.startswith("#"))
    if not keys:
        raise ApiKeyFileError(f"PARAMEM_API_KEY_FILE {path} holds no key: write one a line")
    return keys


class ApiKeyMiddleware:
    """Answers 401 before a byte of the body is read."""

    def __init__(self, app: ASGIApp, keys: tuple[bytes, ...]) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS or self._admits(scope):
            await self._app(scope, receive, send)
            return
        refusal = ApiError(
            401,
            "invalid_api_key",
            "send one of the server's keys: Authorization: Bearer KEY",
            param="Authorization",
            headers={"WWW-Authenticate": "Bearer"},
        )
        await refusal.response()(scope, receive, send)

    def _admits(self, scope: Scope) -> bool:
        scheme, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
        candidate = given.strip().encode("latin-1")
        # Every key is compared: stopping at the first match would tell which one it was.
        matches = [hmac.compare_digest(candidate, key) for key in self._keys]
        return scheme.lower() == "bearer" and any(matches)
