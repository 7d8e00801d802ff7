"""One request on a connection of its own, and what came of it.

By hand on asyncio's streams: a thousand of a client library's would load this machine more than the
server under test, and a client that is refused may not be retried behind our back.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

PATIENCE_S = 300.0
BROKEN = 0  # in place of a status: no answer, or half of one


@dataclass(frozen=True, slots=True)
class Address:
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Attempt:
    """``seconds``: from opening the connection to the end of the answer."""

    status: int
    retry_after_s: float | None
    seconds: float
    body: bytes

    @property
    def accepted(self) -> bool:
        """A write that is durable, or a stream that ran to its end."""
        return self.status == 202 or (self.status == 200 and b"event: done" in self.body)

    @property
    def refused(self) -> bool:
        return self.status == 429


@dataclass(frozen=True, slots=True)
class Tally:
    """Of many attempts."""

    accepted: int
    refused: int
    silent: int  # refused without Retry-After
    other: int  # neither accepted nor refused: the server broke its promise
    told_s: str  # Retry-After, shortest to longest
    accepted_ms: str  # p50 / p99
    refused_ms: str

    @classmethod
    def of(cls, attempts: Sequence[Attempt]) -> Tally:
        accepted = [one for one in attempts if one.accepted]
        refused = [one for one in attempts if one.refused]
        told = [one.retry_after_s for one in refused if one.retry_after_s is not None]
        return cls(
            accepted=len(accepted),
            refused=len(refused),
            silent=len(refused) - len(told),
            other=len(attempts) - len(accepted) - len(refused),
            told_s=f"{min(told):g} to {max(told):g}" if told else "–",
            accepted_ms=_quantiles_ms(accepted),
            refused_ms=_quantiles_ms(refused),
        )


async def attempt(address: Address, path: str, body: dict[str, Any]) -> Attempt:
    """POST ``body`` and read the answer to the end of the connection."""
    started = time.perf_counter()
    try:
        async with asyncio.timeout(PATIENCE_S):
            answer = await _exchange(address, path, json.dumps(body).encode())
    except (OSError, TimeoutError):
        answer = b""
    seconds = time.perf_counter() - started
    head, _, rest = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    words = first.split()
    status = int(words[1]) if len(words) > 1 else BROKEN
    headers = dict(line.lower().split(": ", 1) for line in lines)
    told = headers.get("retry-after")
    return Attempt(status, float(told) if told else None, seconds, rest)


async def _exchange(address: Address, path: str, body: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {address.host}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        return await reader.read()
    finally:
        writer.close()


def _quantiles_ms(attempts: Sequence[Attempt]) -> str:
    if not attempts:
        return "–"
    half, most = np.percentile([1e3 * one.seconds for one in attempts], [50, 99])
    return f"{half:,.0f} / {most:,.0f}"
