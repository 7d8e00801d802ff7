"""The app factory."""

from __future__ import annotations

import re

from asgi_correlation_id import CorrelationIdMiddleware
from fastapi import FastAPI
from starlette.middleware import Middleware

from memory_store.store import MemoryStore
from paramem import __version__
from paramem.settings import Settings
from server.auth import ApiKeyMiddleware
from server.body_deadline import BodyDeadlineMiddleware
from server.collector import HouseCollector
from server.description import DescribedApp
from server.engine.factory import build_generator
from server.engine.generator import Generator
from server.errors import ErrorResponse, install_error_handlers
from server.key_file import KeyFile
from server.lifespan import lifespan
from server.observer import ObserverMiddleware
from server.routers import chat, collections, jobs, memories, operations, query, snapshots, write
from server.services import Services
from server.snapshots import SnapshotRunner

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


def create_app(
    settings: Settings, *, store: MemoryStore | None = None, generator: Generator | None = None
) -> FastAPI:
    """The service as an ASGI app. A ``store`` that is given stays its owner's to close.

    Raises: ApiKeyFileError.
    """
    keys = KeyFile(settings.api_key_file) if settings.api_key_file else None
    services = Services(settings, generator or build_generator(settings), store)
    services.metrics.registry.register(HouseCollector(services, name_collections=keys is None))
    middleware = [
        Middleware(
            CorrelationIdMiddleware,
            validator=lambda given: REQUEST_ID.fullmatch(given) is not None,
        ),
        Middleware(ObserverMiddleware, services=services),
    ]
    if keys is not None:
        middleware.append(Middleware(ApiKeyMiddleware, keys=keys, quotas=services.quotas))
    middleware.append(Middleware(BodyDeadlineMiddleware, seconds=settings.body_timeout_s))
    app = DescribedApp(
        title="paramem",
        version=__version__,
        description="Documents become memories; an LLM answers from them.",
        lifespan=lifespan,
        middleware=middleware,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
        responses={"4XX": {"model": ErrorResponse}, "5XX": {"model": ErrorResponse}},
    )
    app.state.services = services
    app.state.snapshots = SnapshotRunner(services)
    install_error_handlers(app)
    # tried in this order
    for module in (query, chat, write, jobs, memories, collections, snapshots, operations):
        app.include_router(module.router)
    return app
