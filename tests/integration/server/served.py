"""A real server on loopback, in a thread, as ``paramem serve`` runs it."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from memory_store.store import MemoryStore
from paramem.settings import Settings
from server.app import create_app
from server.engine.dummy import DummyEngine
from server.protocol import ImpatientProtocol
from server.run import DrainingServer, server_config
from server.services import Services
from tests.integration.server.conftest import wait_for


class Served:
    """A server in a thread, and what the tests look at from outside."""

    def __init__(
        self,
        server: DrainingServer,
        services: Services,
        engine: DummyEngine,
        http: httpx.Client,
        port: int,
    ) -> None:
        self.server = server
        self.services = services
        self.engine = engine
        self.http = http
        self.port = port

    def terminate(self) -> None:
        self.server.handle_exit(signal.SIGTERM, None)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def connections(self) -> int:
        return len(self.server.server_state.connections)


@contextmanager
def serve(
    settings: Settings,
    store: MemoryStore,
    *,
    token_delay_s: float = 0.0,
    engine: DummyEngine | None = None,
    protocol: type[ImpatientProtocol] = ImpatientProtocol,
) -> Iterator[Served]:
    engine = engine or DummyEngine(settings, token_delay_s=token_delay_s)
    app = create_app(settings, store=store, generator=engine)
    services = app.state.services
    config = server_config(app, host="127.0.0.1", port=0, protocol=protocol)
    server = DrainingServer(config, services)
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    port = listener.getsockname()[1]
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=url, timeout=20, trust_env=False) as http:
            wait_for(lambda: server.started and http.get("/version").json()["engine"])
            yield Served(server, services, engine, http, port)
    finally:
        server.should_exit = True
        thread.join(20)
    assert not thread.is_alive()
    assert engine.load() == (0, 0)
