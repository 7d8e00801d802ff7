"""What happens around the serving: the store is opened, the engine loads behind, all is closed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import structlog
from fastapi import FastAPI

from server.services import Services

log = structlog.get_logger(__name__)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    services: Services = app.state.services
    opened = await services.write(services.open_store)
    await app.state.snapshots.resume()
    loading = asyncio.create_task(services.load_engine())
    try:
        yield
    finally:
        services.draining = True
        loading.cancel()
        with suppress(asyncio.CancelledError):
            await loading
        await services.engine.stop()
        await app.state.snapshots.stop()
        await services.finish_calls()
        await services.write(_close, services, opened)
        services.end_threads()


def _close(services: Services, opened: bool) -> None:
    try:
        services.store.save_index()
    except Exception as error:  # the index is a cache: rebuilt at the next start
        log.warning("index_not_saved", error=str(error))
    if opened:
        services.store.close()
