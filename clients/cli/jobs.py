"""``paramem jobs``: the write queue."""

from __future__ import annotations

from typing import Annotated

import typer

from clients.cli.console import complain, print_json, progress_bar, say, say_columns
from clients.cli.failures import FAILED, OneLineErrors
from clients.cli.options import AsJson, Url, open_client
from clients.results import Job

app = typer.Typer(cls=OneLineErrors, no_args_is_help=True, help="Look at and steer the queue.")
JobId = Annotated[str, typer.Argument(help="A job id.")]


@app.command("list")
def list_jobs(
    status: Annotated[
        str | None,
        typer.Option("--status", help="queued, running, succeeded, failed, cancelled or dead."),
    ] = None,
    collection: Annotated[str | None, typer.Option("--collection")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1)] = 20,
    cursor: Annotated[str | None, typer.Option("--cursor", help="From the page before.")] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """List jobs."""
    with open_client(url) as client:
        page = client.jobs(status=status, collection=collection, limit=limit, cursor=cursor)
    if as_json:
        print_json(page)
        return
    rows = [
        (j.job_id, j.document_id, j.tier, j.status, f"{j.progress:.0%}", str(j.attempts))
        for j in page.items
    ]
    say_columns(("job", "document", "tier", "status", "progress", "attempts"), rows)
    if page.next_cursor:
        complain(f"more: paramem jobs list --cursor {page.next_cursor}")


@app.command()
def show(job_id: JobId, url: Url = None, as_json: AsJson = False) -> None:
    """Show one job."""
    with open_client(url) as client:
        _print(client.job(job_id), as_json=as_json)


@app.command()
def cancel(job_id: JobId, url: Url = None, as_json: AsJson = False) -> None:
    """Cancel a queued or running job."""
    with open_client(url) as client:
        _print(client.cancel(job_id), as_json=as_json)


@app.command()
def retry(job_id: JobId, url: Url = None, as_json: AsJson = False) -> None:
    """Queue a failed, dead or cancelled job again."""
    with open_client(url) as client:
        _print(client.retry(job_id), as_json=as_json)


@app.command()
def watch(job_id: JobId, url: Url = None, as_json: AsJson = False) -> None:
    """Follow a job to its end; exit code 1 unless it succeeds."""
    with (
        open_client(url) as client,
        client.job_events(job_id) as jobs,
        progress_bar(job_id, 1, quiet=as_json) as bar,
    ):
        for job in jobs:
            bar.move_to(job.progress, f"{job.document_id} {job.status}")
    _print(job, as_json=as_json)
    if not job.succeeded:
        raise typer.Exit(FAILED)


def _print(job: Job, *, as_json: bool) -> None:
    if as_json:
        print_json(job)
        return
    say(f"job        {job.job_id}")
    say(f"document   {job.document_id} (version {job.version}, collection {job.collection})")
    say(f"work       {job.tier} memory, mode {job.mode}")
    say(f"status     {job.status}, {job.progress:.0%}, attempt {job.attempts}/{job.max_attempts}")
    if job.error is not None:
        say(f"error      {job.error.message} ({job.error.code})")
    for name, value in (job.result or {}).items():
        shown = f"{value:.4g}" if isinstance(value, float) else str(value)
        say(f"{name}  {shown}")
    if job.refine_job_id is not None:
        say(f"refined by {job.refine_job_id}")
