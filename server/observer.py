"""The outermost layer of a request: counts it, logs it, and turns surprises into a 500."""

from __future__ import annotations

import time

import structlog
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import as_api_error
from server.services import Services

CLIENT_CLOSED_REQUEST = 499  # nobody is there to see it; it keeps the 500s honest
QUIET = frozenset({"/health", "/healthz", "/readyz", "/metrics"})

log = structlog.get_logger(__name__)


class ObserverMiddleware:
    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app = app
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        self._services.requests_in_flight += 1
        status: int | None = None

        async def observed_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, observed_send)
        except ClientDisconnect:
            status = CLIENT_CLOSED_REQUEST
        except Exception as error:
            if status is not None:
                raise  # too late for another answer: the server cuts the connection
            await as_api_error(error).response()(scope, receive, observed_send)
        finally:
            self._services.requests_in_flight -= 1
            self._note(scope, status or CLIENT_CLOSED_REQUEST, time.perf_counter() - started)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        # The template, not the path: paths hold document ids.
        route = getattr(scope.get("route"), "path", "unmatched")
        self._services.metrics.observe_http(scope["method"], route, status, seconds)
        if route not in QUIET:
            log.info(
                "request",
                method=scope["method"],
                route=route,
                status=status,
                ms=round(1e3 * seconds, 1),
                key=getattr(scope.get("state", {}).get("api_key"), "name", None),
            )
