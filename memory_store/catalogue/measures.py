"""Rows of ``measures``: numbers that outlive a process. Works inside the caller's transaction.

Totals are counted in the transaction of what they count, so that they are exact whatever is killed,
and whichever process is asked for them.
"""

from __future__ import annotations

from collections.abc import Mapping

from memory_store.catalogue.database import Connection

FIT_JOBS, FIT_SECONDS = "fit_jobs", "fit_seconds"
FIT_STEPS, FIT_TOKEN_ACCURACY = "fit_steps", "fit_token_accuracy"


def ended(status: str) -> str:
    """Name of the total of jobs that ended in ``status``."""
    return f"jobs_{status}"


def add(connection: Connection, amounts: Mapping[str, float]) -> None:
    """Raise totals."""
    connection.executemany(
        "INSERT INTO measures (name, value) VALUES (?, ?)"
        " ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
        list(amounts.items()),
    )


def read(connection: Connection) -> dict[str, float]:
    """All of them."""
    return {str(name): float(value) for name, value in connection.execute("SELECT * FROM measures")}
