"""Routes that ask: what this server cannot answer now is refused before the body is read.

A crowd that comes again too soon costs a server most in parsing what it will not answer. The place
itself is taken once the body is there (``Services.admit_query``), or clients that send
slowly would hold all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response

from server.json_body import JsonRoute
from server.services import services_of


class QueryRoute(JsonRoute):
    """A route of queries; what it has beside POST is not one."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            if request.method == "POST":
                services_of(request).refuse_query()
            return await handler(request)

        return handle
