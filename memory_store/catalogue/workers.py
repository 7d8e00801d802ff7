"""Rows of ``workers``: who said when that it lives. Works inside the caller's transaction."""

from __future__ import annotations

from memory_store.catalogue.database import Connection
from memory_store.records import WorkerInfo


def upsert(connection: Connection, info: WorkerInfo) -> None:
    connection.execute(
        "INSERT OR REPLACE INTO workers (worker_id, fingerprint, state, heartbeat_at, started_at)"
        " VALUES (?, ?, ?, ?, ?)",
        (info.worker_id, info.fingerprint, info.state, info.heartbeat_at, info.started_at),
    )


def heard_since(connection: Connection, since: float) -> list[WorkerInfo]:
    rows = connection.execute(
        "SELECT worker_id, fingerprint, state, heartbeat_at, started_at FROM workers"
        " WHERE heartbeat_at >= ? ORDER BY worker_id",
        (since,),
    )
    return [WorkerInfo(*row) for row in rows]


def delete(connection: Connection, worker_id: str) -> None:
    connection.execute("DELETE FROM workers WHERE worker_id = ?", (worker_id,))
