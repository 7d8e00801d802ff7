"""Whether this service can do its whole job now: engine, worker, disk, and not shutting down."""

from __future__ import annotations

import time
from typing import Any

from memory_store.records import WorkerInfo
from memory_store.store import MemoryStore
from server.schemas.results import ReadinessResult
from server.services import Services

SHORTEST_SILENCE_S = 15.0
UNABLE = frozenset({"loading", "stopping"})


async def check_readiness(services: Services) -> ReadinessResult:
    """Each check has ``ok`` and what it found."""
    checks = {
        "engine": _check_engine(services),
        "worker": await services.read(_check_worker, services),
        "disk": await services.read(
            _check_disk, services.store, services.settings.disk_floor_bytes
        ),
        "server": {
            "ok": not services.draining,
            "state": "draining" if services.draining else "serving",
        },
    }
    return ReadinessResult(ready=all(check["ok"] for check in checks.values()), checks=checks)


def _check_engine(services: Services) -> dict[str, Any]:
    state = services.engine_state
    if state != "ready":
        return {"ok": False, "state": state, "error": services.engine_failure}
    return {"ok": True, "state": state, "fingerprint": services.engine_info().spec.fingerprint}


def _check_worker(services: Services) -> dict[str, Any]:
    """One worker that writes what this engine reads is enough."""
    max_age_s = max(3 * services.settings.heartbeat_s, SHORTEST_SILENCE_S)
    workers = services.store.workers(max_age_s=max_age_s)
    if not workers:
        return {
            "ok": False,
            "state": "absent",
            "error": f"no worker heartbeat in the last {max_age_s:g} s: run paramem worker",
        }
    wanted = None
    if services.engine_state == "ready":
        wanted = services.engine_info().spec.fingerprint
    able = [worker for worker in workers if worker.state not in UNABLE]
    matching = [worker for worker in able if wanted in (None, worker.fingerprint)]
    if matching:
        return {"ok": True, **_told(matching)}
    if not able:
        return {"ok": False, **_told(workers)}
    return {
        "ok": False,
        **_told(able),
        "state": "fingerprint_mismatch",
        "engine_fingerprint": wanted,
        "error": f"the worker writes memories of {able[0].fingerprint}, the engine reads {wanted}: "
        "run both with the same model and bundle",
    }


def _told(workers: list[WorkerInfo]) -> dict[str, Any]:
    youngest = max(workers, key=lambda worker: worker.heartbeat_at)
    return {
        "state": youngest.state,
        "workers": len(workers),
        "heartbeat_age_s": round(max(0.0, time.time() - youngest.heartbeat_at), 3),
        "fingerprint": youngest.fingerprint,
    }


def _check_disk(store: MemoryStore, floor_bytes: int) -> dict[str, Any]:
    free_bytes = store.free_bytes()
    ok = free_bytes >= floor_bytes
    return {
        "ok": ok,
        "state": "ok" if ok else "below_floor",
        "free_bytes": free_bytes,
        "floor_bytes": floor_bytes,
    }
