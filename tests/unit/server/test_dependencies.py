"""What every request passes through before its route: on the event loop, not in a thread."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from paramem.settings import EngineKind, load_settings
from server.app import create_app


def calls(dependant: Dependant) -> Iterator[Any]:
    yield dependant.call
    for needed in dependant.dependencies:
        yield from calls(needed)


def is_async(call: Any) -> bool:
    whole = call if inspect.isroutine(call) else type(call).__call__
    return inspect.iscoroutinefunction(whole) or inspect.isasyncgenfunction(whole)


def all_routes(routes: Any) -> Iterator[APIRoute]:
    for route in routes:
        if isinstance(route, APIRoute):
            yield route
        yield from all_routes(getattr(getattr(route, "original_router", None), "routes", ()))


def test_no_dependency_waits_for_a_thread(tmp_path: Path) -> None:
    """FastAPI runs a plain ``def`` in a pool of threads: under load a refusal stood in line for
    one three times, and said 429 after seconds."""
    app = create_app(load_settings(home=tmp_path, engine=EngineKind.DUMMY))
    found = list(all_routes(app.routes))
    assert "/query" in {route.path for route in found}
    waiting = {
        (route.path, call.__name__)
        for route in found
        for call in calls(route.dependant)
        if not is_async(call)
    }
    assert not waiting
