"""Who may ask for what: ``Authorization: Bearer`` against the key file, before the body is read."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Query, Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from memory_store.records import DEFAULT_COLLECTION
from server.errors import ApiError
from server.key_file import KeyFile
from server.keys import ANYONE, SCOPES, ApiKey
from server.quotas import Quotas

OPEN_PATHS = frozenset({"/health", "/healthz", "/readyz", "/metrics"})
ANY_SCOPE = frozenset(SCOPES)


def sufficient_scopes(method: str, path: str) -> frozenset[str]:
    """Any one of these lets a key in. What is not named here reads with GET and writes otherwise,
    so that a new route is never open to everyone."""
    section = path.split("/")[1] if path.startswith("/") else ""
    reads = method in ("GET", "HEAD")
    if section == "snapshots" or (section == "collections" and not reads):
        return frozenset({"admin"})
    if section in ("query", "v1"):
        return frozenset({"read"})
    if section == "jobs" and reads:
        return frozenset({"read", "write"})  # who writes may follow the writing
    if section in ("docs", "openapi.json", "version"):
        return ANY_SCOPE
    return frozenset({"read"} if reads else {"write"})


class ApiKeyMiddleware:
    """Answers 401, 403 and 429 before a byte of the body is read."""

    def __init__(self, app: ASGIApp, keys: KeyFile, quotas: Quotas) -> None:
        self._app = app
        self._keys = keys
        self._quotas = quotas

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            try:
                key = self._key(scope)
                self._quotas.admit(key)
                _check_scope(key, scope["method"], scope["path"])
            except ApiError as refusal:
                await refusal.response()(scope, receive, send)
                return
            scope.setdefault("state", {})["api_key"] = key
        await self._app(scope, receive, send)

    def _key(self, scope: Scope) -> ApiKey:
        scheme, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
        key = self._keys.find(given.strip().encode("latin-1"))
        if key is None or scheme.lower() != "bearer":
            raise ApiError(
                401,
                "invalid_api_key",
                "send one of the server's keys: Authorization: Bearer KEY",
                param="Authorization",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return key


def _check_scope(key: ApiKey, method: str, path: str) -> None:
    """Raises: ApiError 403."""
    wanted = sufficient_scopes(method, path)
    if not wanted & key.scopes:
        raise ApiError(
            403,
            "scope_missing",
            f"this needs a key with scope {' or '.join(sorted(wanted))}; key {key.name} has "
            + ", ".join(sorted(key.scopes)),
            param="Authorization",
        )
    if path.split("/")[1] == "snapshots" and key.collections is not None:
        raise ApiError(
            403,
            "collection_forbidden",
            "a snapshot holds every collection: use a key that is not limited to some",
            param="Authorization",
        )


def caller_of(request: Request) -> ApiKey:
    """The key of this request; of a server without keys, one that may do everything."""
    key = getattr(request.state, "api_key", ANYONE)
    assert isinstance(key, ApiKey)
    return key


async def caller(request: Request) -> ApiKey:
    return caller_of(request)


Caller = Annotated[ApiKey, Depends(caller)]


async def own_collection(
    key: Caller, collection: Annotated[str, Query()] = DEFAULT_COLLECTION
) -> str:
    """Raises: ApiError 403."""
    key.check_collection(collection)
    return collection


OwnCollection = Annotated[str, Depends(own_collection)]
"""The query parameter ``collection``, if the caller's key opens it."""
