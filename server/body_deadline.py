"""An end to every body: who sends one byte at a time makes progress, and would be waited for."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import ApiError


class BodyDeadlineMiddleware:
    """Answers 408 once a body has been waited for ``seconds`` in all.

    Only waiting counts: a batch may take as long as the store needs for its lines.
    """

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        self._app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        left_s, whole = self._seconds, False
        loop = asyncio.get_running_loop()

        async def bounded_receive() -> Message:
            nonlocal left_s, whole
            if whole:  # what is waited for now is the client's going away
                return await receive()
            asked = loop.time()
            try:
                async with asyncio.timeout(left_s):
                    message = await receive()
            except TimeoutError:
                raise _too_slow(self._seconds) from None
            left_s -= loop.time() - asked
            whole = not message.get("more_body", False)
            return message

        await self._app(scope, bounded_receive, send)


def _too_slow(seconds: float) -> ApiError:
    return ApiError(
        408,
        "body_too_slow",
        f"the body was not there after {seconds:g} s of waiting: send it faster, or in smaller "
        "requests; lines of a batch that came before may be stored, so send the same "
        "Idempotency-Key again",
        headers={"Connection": "close"},
    )
