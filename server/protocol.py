"""HTTP/1.1 with an end to every wait for a client: uvicorn alone ends an idle keep-alive only.

Without these, a client that opens a connection and says nothing, trickles its headers, stops in
the middle of its body or stops reading its answer would hold a connection (and a row of the
engine) for ever. Headers get one deadline for all of them; body and answer may take as long as
they like while they make progress. The parser is httptools (llhttp): a request costs a fifth less
than with h11 (LOG.md, 2026-11-27), but it bounds nothing by itself and does not ask for a Host.
"""

from __future__ import annotations

import asyncio
import resource
from enum import Enum, auto
from typing import cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADERS_S = 10.0
BODY_GAP_S = 30.0
STALL_S = 30.0  # without a byte of the answer being taken
MAX_HEADER_BYTES = 64 << 10  # request line and headers; above: 400, and the connection is closed
RESERVED_DESCRIPTORS = 256  # for shards, catalogue, index and logs


def max_connections() -> int:
    """What the process's descriptor limit leaves: the store must be able to open its files."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return 1 << 20
    return max(soft // 2, soft - RESERVED_DESCRIPTORS)


class Reading(Enum):
    """What comes next from the client."""

    HEADERS = auto()
    BODY = auto()
    NOTHING = auto()  # the request is whole


class ImpatientProtocol(HttpToolsProtocol):
    """Cuts off who keeps it waiting, and who comes when there are too many."""

    headers_s = HEADERS_S
    body_gap_s = BODY_GAP_S
    stall_s = STALL_S
    most = max_connections()

    _reading = Reading.HEADERS
    _header_bytes = 0
    _phase = ""
    _timer: asyncio.TimerHandle | None = None
    _stall: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if len(self.connections) >= self.most:
            self.transport.abort()
            return
        super().connection_made(self.transport)
        self._wait("headers", self.headers_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait("", None)
        self._unset_stall()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        answered = self.cycle is None or self.cycle.response_complete
        if self._reading is Reading.HEADERS:
            self._header_bytes += len(data)
            if self._header_bytes > MAX_HEADER_BYTES and not self.transport.is_closing():
                self.send_400_response(f"Headers are above {MAX_HEADER_BYTES} bytes.")
        if self.transport.is_closing():
            self._wait("closing", self.stall_s)
        elif self._reading is Reading.BODY and answered:
            self._wait("refused body", self.body_gap_s)  # no more patience
        elif self._reading is Reading.BODY:
            self._wait("", None)
            self._wait("body", self.body_gap_s)
        elif answered:
            self._wait("headers", self.headers_s)
        else:  # what it sent ahead has to wait for us
            self._wait("", None)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._reading, self._header_bytes = Reading.HEADERS, 0

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._reading is Reading.HEADERS:  # else a trailer: too late to say who asks
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Raises: ValueError: not one Host (RFC 9112, 3.2), which the parser's caller answers."""
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts > 1 or (hosts == 0 and self.parser.get_http_version() == "1.1"):
            raise ValueError("an HTTP/1.1 request has one Host")
        super().on_headers_complete()
        self._reading = Reading.BODY

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._reading = Reading.NOTHING

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._wait("closing", self.stall_s)

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._wait("closing", self.stall_s)  # close() waits until all is taken

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unset_stall()

    def _wait(self, phase: str, seconds: float | None) -> None:
        """Start waiting for something else; the same again does not extend the deadline."""
        if phase == self._phase:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._phase = phase
        self._timer = None
        if seconds is not None:
            self._timer = self.loop.call_later(seconds, self._expire)

    def _expire(self) -> None:
        if self._phase == "body" and self.flow.read_paused:  # it is us who do not read
            self._wait("", None)
            self._wait("body", self.body_gap_s)
        else:
            self.transport.abort()

    def _watch_reader(self) -> None:
        left = self.transport.get_write_buffer_size()
        self._stall = self.loop.call_later(self.stall_s, self._check_reader, left)

    def _check_reader(self, left_before: int) -> None:
        if self.transport.get_write_buffer_size() < left_before:
            self._watch_reader()
        else:
            self.transport.abort()

    def _unset_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
