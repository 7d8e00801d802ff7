"""The committed OpenAPI against the service: what is generated from it gets what it promises.

The suite tries a few requests an operation; ``CONTRACT_EXAMPLES=150`` takes half an hour.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from server.app import create_app
from tests.integration.server.conftest import make_settings, opened_store, wait_for, write
from tests.integration.server.hash_worker import HashWorker

ROOT = Path(__file__).parents[3]
EXAMPLES = int(os.environ.get("CONTRACT_EXAMPLES", "5"))  # an operation and kind
EXPECTED_5XX = (503, 507)  # not ready, and full: documented, and not what this fuzz is about
CHECKS = [
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
]
SCHEMA = schemathesis.openapi.from_dict(json.loads((ROOT / "openapi.json").read_text()))
OPERATIONS = [found.ok() for found in SCHEMA.get_all_operations()]


def takes_anything(operation: schemathesis.APIOperation) -> bool:
    return bool(operation.body or list(operation.iter_parameters()))


@schemathesis.serializer("application/x-ndjson")
def _as_lines(_context: schemathesis.SerializationContext, value: Any) -> bytes:
    return json.dumps(value).encode() + b"\n"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A service with something in it, and a worker."""
    own = make_settings(tmp_path_factory.mktemp("home"))
    with opened_store(own) as store, HashWorker(store):
        app = create_app(own, store=store)
        with TestClient(app, raise_server_exceptions=False) as client:
            wait_for(lambda: client.get("/version").json()["engine"])
            write(client, "The ferry leaves at seven.", id="0")
            yield client


@pytest.mark.parametrize(
    ("operation", "mode"),
    [
        pytest.param(operation, mode, id=f"{operation.label} {mode.value}")
        for operation in OPERATIONS
        for mode in GenerationMode
        if mode is GenerationMode.POSITIVE or takes_anything(operation)
    ],
)
def test_answers_are_those_that_the_contract_has(
    operation: schemathesis.APIOperation, mode: GenerationMode, running: TestClient
) -> None:
    @given(operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def check(case: schemathesis.Case) -> None:
        request = {name: value for name, value in case.as_transport_kwargs().items() if value}
        if "data" in request:  # requests' name for it
            request["content"] = request.pop("data")
        answer = running.request(**request)
        checks = CHECKS if answer.status_code in EXPECTED_5XX else [*CHECKS, not_a_server_error]
        case.validate_response(answer, checks=checks)

    check()
