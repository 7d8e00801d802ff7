"""The server process: listens, drains on SIGTERM, exits 0."""

from __future__ import annotations

import gc
import importlib.util
import ipaddress
import signal
import time
from types import FrameType

import structlog
import uvicorn
from starlette.types import ASGIApp

from paramem.logs import configure_logging
from paramem.settings import EngineKind, Settings
from server.app import create_app
from server.engine.generator import Generator
from server.key_file import ApiKeyFileError
from server.protocol import ImpatientProtocol
from server.services import Services

KEEP_ALIVE_S = 5
GARBAGE_AFTER = 10_000
"""Objects more than there were, until the youngest are searched for garbage. With Python's 700 an
eighth of a request's time went there at 64 clients (LOG.md, 2026-11-27)."""
STRAGGLERS_S = 1  # what uvicorn still grants after the drain before it cancels

log = structlog.get_logger(__name__)


class DrainingServer(uvicorn.Server):
    """Keeps listening while it drains, so that new work is told 503 instead of being cut off.

    The first signal starts the drain; the process ends when no request is left in flight or the
    grace is over. A second signal ends the grace.
    """

    def __init__(self, config: uvicorn.Config, services: Services) -> None:
        super().__init__(config)
        self._services = services
        self._deadline = float("inf")  # time.monotonic()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Not uvicorn's own: it raises the signal again after a clean shutdown, which ends the
        # process with the signal's status instead of 0.
        grace_s = 0.0 if self._services.draining else self._services.settings.shutdown_grace_s
        self._services.draining = True
        self._deadline = min(self._deadline, time.monotonic() + grace_s)

    async def on_tick(self, counter: int) -> bool:
        if self._services.engine.lost and not self._services.draining:
            self.handle_exit(signal.SIGTERM, None)
        if self._services.draining:
            idle = self._services.requests_in_flight == 0
            if idle or time.monotonic() >= self._deadline:
                self.should_exit = True
        return await super().on_tick(counter)


def run_server(settings: Settings, *, generator: Generator | None = None) -> None:
    """Serve until SIGTERM or SIGINT.

    ``generator``: None = the one the settings name.

    Raises:
        SystemExit: the settings cannot be served; the message names the setting.
        StoreError: the home cannot be opened.
    """
    configure_logging(settings.log_level)
    refuse_open_door(settings)
    refuse_missing_engine(settings)
    try:
        app = create_app(settings, generator=generator)
    except ApiKeyFileError as error:
        raise SystemExit(str(error)) from error
    services = app.state.services
    server = DrainingServer(server_config(app, host=settings.host, port=settings.port), services)
    gc.set_threshold(GARBAGE_AFTER, *gc.get_threshold()[1:])
    services.open_store()  # not in the app's lifespan: a refusal would be a traceback in the log
    try:
        server.run()
    finally:
        services.store.close()
    if not server.started:
        raise SystemExit(f"cannot serve on {settings.host}:{settings.port}; the log says why")
    if services.engine.lost:
        raise SystemExit("the accelerator failed: start the server again, and look after the card")


def server_config(
    app: ASGIApp, *, host: str, port: int, protocol: type[ImpatientProtocol] = ImpatientProtocol
) -> uvicorn.Config:
    """How the service listens: HTTP/1.1 only, every wait for a client has an end."""
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        http=protocol,
        ws="none",
        timeout_keep_alive=KEEP_ALIVE_S,
        log_config=None,
        access_log=False,
        proxy_headers=False,  # nothing here asks who the client is
        server_header=False,
        timeout_graceful_shutdown=STRAGGLERS_S,
    )


def refuse_open_door(settings: Settings) -> None:
    """Raises: SystemExit when anyone on the network could write and ask without a key."""
    if settings.api_key_file is None and not _is_loopback(settings.host):
        raise SystemExit(
            f"refusing to listen on {settings.host} without API keys: set PARAMEM_API_KEY_FILE to "
            "a file with one key a line, or listen on 127.0.0.1"
        )


def refuse_missing_engine(settings: Settings) -> None:
    """Raises: SystemExit when the engine's package is not installed."""
    if settings.engine is EngineKind.VLLM and importlib.util.find_spec("vllm") is None:
        raise SystemExit(
            "PARAMEM_ENGINE=vllm, but vllm is not installed: pip install 'paramem[worker,vllm]' "
            "(in an environment of its own: it pins torch), or leave PARAMEM_ENGINE out"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
