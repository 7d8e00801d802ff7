"""What operators and orchestrators ask: alive, ready, measured, which version."""

from __future__ import annotations

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from paramem import __version__
from server.readiness import check_readiness
from server.schemas.results import EngineResult, HealthResult, ReadinessResult, VersionResult
from server.services import ServicesDep, ServingDep

RETRY_AFTER_S = 2

router = APIRouter(tags=["operations"])


@router.get("/healthz", summary="Is the process alive?")
async def healthz() -> HealthResult:
    return HealthResult(status="ok")


@router.get("/health", summary="Can it answer?")
async def health(_serving: ServingDep) -> HealthResult:
    """What clients of OpenAI-compatible servers ask first: 200 once the model is loaded."""
    return HealthResult(status="ok")


@router.get(
    "/readyz",
    summary="Can it do its whole job?",
    responses={503: {"model": ReadinessResult, "description": "Not ready; each check says why."}},
)
async def readyz(services: ServicesDep, response: Response) -> ReadinessResult:
    """Model loaded, a worker that writes for it alive, disk above its floor, not draining."""
    readiness = await check_readiness(services)
    if not readiness.ready:
        response.status_code = 503
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
    return readiness


@router.get("/metrics", summary="Prometheus metrics", response_class=Response)
async def metrics(services: ServicesDep) -> Response:
    text = await services.read(services.metrics.render)
    return Response(text, media_type=CONTENT_TYPE_LATEST)


@router.get("/version", summary="Version and loaded model")
async def version(services: ServicesDep) -> VersionResult:
    """``engine`` is null until the model is loaded."""
    ready = services.engine_state == "ready"
    engine = EngineResult.of(services.engine_info()) if ready else None
    return VersionResult(version=__version__, engine=engine)
