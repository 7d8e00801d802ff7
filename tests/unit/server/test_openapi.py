"""The committed description of the HTTP surface is the one the server gives."""

from __future__ import annotations

import json
from pathlib import Path

from server.openapi import render_openapi

COMMITTED = Path(__file__).parents[3] / "openapi.json"


def test_the_committed_openapi_is_that_of_the_live_app() -> None:
    assert COMMITTED.read_text("utf-8") == render_openapi(), (
        "the routes changed: python -m server.openapi > openapi.json"
    )


def test_every_route_describes_its_errors_and_has_a_summary() -> None:
    document = json.loads(render_openapi())
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"], (method, path)
            assert {"4XX", "5XX"} <= operation["responses"].keys(), (method, path)


def test_no_two_routes_share_an_operation_id() -> None:
    paths = json.loads(render_openapi())["paths"].values()
    ids = [operation["operationId"] for operations in paths for operation in operations.values()]
    assert len(set(ids)) == len(ids)
