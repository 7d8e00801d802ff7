"""Where commands write: results to stdout, progress and complaints to stderr."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pydantic import BaseModel
from rich.cells import cell_len
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from clients.client import Client
from clients.results import Job
from clients.waiting import WaitState, wait_for_jobs

out = Console(soft_wrap=True, highlight=False)
err = Console(stderr=True, soft_wrap=True, highlight=False)


def say(text: str, *, end: str = "\n") -> None:
    """Text as it is to stdout: document text may hold what rich would take for markup."""
    out.print(text, markup=False, end=end)


def complain(text: str) -> None:
    err.print(text, markup=False)


def say_columns(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Aligned columns on stdout, never cut: ids are there to be copied."""
    lines = [headings, *rows]
    widths = [max(cell_len(line[column]) for line in lines) for column in range(len(headings))]
    for line in lines:
        cells = (
            cell + " " * (width - cell_len(cell)) for cell, width in zip(line, widths, strict=True)
        )
        say("  ".join(cells).rstrip())


def print_json(value: Any) -> None:
    """One JSON value on stdout, for machines."""
    say(json.dumps(_plain(value), ensure_ascii=False, indent=2))


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


@contextmanager
def progress_bar(label: str, total: int | None, *, quiet: bool = False) -> Iterator[Bar]:
    """A bar on stderr; invisible when ``quiet`` or when nobody watches."""
    columns = [SpinnerColumn(), TextColumn("{task.description}"), BarColumn()]
    counted = [MofNCompleteColumn()] if total is not None else []
    progress = Progress(
        *columns,
        *counted,
        TimeElapsedColumn(),
        console=err,
        disable=quiet or not err.is_terminal,
    )
    with progress:
        task = progress.add_task(label, total=total)
        yield Bar(progress, task)


class Bar:
    """One line of progress."""

    def __init__(self, progress: Progress, task: Any) -> None:
        self._progress = progress
        self._task = task

    def move_to(self, amount: float, label: str | None = None, total: float | None = None) -> None:
        self._progress.update(self._task, completed=amount, description=label, total=total)

    def advance(self) -> None:
        self._progress.advance(self._task)


def follow_jobs(
    client: Client,
    job_ids: list[str],
    label: str,
    *,
    budget_s: float | None = None,
    quiet: bool = False,
) -> WaitState:
    """Wait for jobs behind a progress bar; the last state, also when the budget ran out."""
    state = WaitState((), tuple(job_ids))
    with progress_bar(label, len(job_ids), quiet=quiet) as bar:
        for state in wait_for_jobs(client, job_ids, budget_s=budget_s):
            bar.move_to(state.amount_done)
    return state


def failed_jobs(state: WaitState) -> list[Job]:
    return [job for job in state.finished if not job.succeeded]
