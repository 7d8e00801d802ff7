"""``paramem write``: files become memories."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import typer

from clients.cli.console import complain, failed_jobs, follow_jobs, print_json, progress_bar, say
from clients.cli.failures import FAILED, CommandError
from clients.cli.files import (
    STDIN,
    FoundFile,
    UnreadableFileError,
    find_files,
    read_file,
)
from clients.cli.options import AsJson, CollectionName, Url, open_client
from clients.documents import Document
from clients.results import BatchLine, Job, WriteMode

Mode = Annotated[
    Literal["fast", "fit", "auto"],
    typer.Option("--mode", help="fast: readable soon; fit: better; auto: fast, refined behind."),
]


def write(
    files: Annotated[
        list[str], typer.Argument(help="Files, directories of .md and .txt, or - for stdin.")
    ],
    collection: CollectionName = "default",
    mode: Mode = "auto",
    document_id: Annotated[
        str | None, typer.Option("--id", help="Document id, when there is one file.")
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Until the memories are readable.")
    ] = True,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Write Markdown or plain text files as memories.

    A document's id is its path, its title the first heading. Writing a file again replaces it.
    """
    found = list(find_files(Path(name) for name in files))
    if not found:
        raise CommandError(f"no .md or .txt files in {', '.join(files)}")
    if document_id is not None:
        if len(found) != 1:
            raise CommandError(f"--id names one document, but {len(found)} files were found")
        found = [FoundFile(found[0].path, document_id)]
    elif found == [FoundFile(Path(STDIN), STDIN)]:
        found = [FoundFile(Path(STDIN), "stdin")]
    check_distinct(found)

    unreadable: list[str] = []
    with open_client(url) as client:
        lines: list[BatchLine] = []
        with progress_bar("sending", len(found), quiet=as_json) as bar:
            for line in client.write_many(documents(found, unreadable, collection, mode)):
                lines.append(line)
                bar.advance()
        jobs = [line.job for line in lines if line.job is not None]
        if wait and jobs:
            ids = [job.job_id for job in jobs]
            state = follow_jobs(client, ids, "writing", quiet=as_json)
            jobs = list(state.finished)
            failures = failed_jobs(state)
        else:
            failures = []

    refused = [line for line in lines if line.error is not None]
    report(jobs, lines, wait=wait, as_json=as_json, unreadable=unreadable)
    for reason in unreadable:
        complain(f"skipped {reason}")
    for line in refused:
        assert line.error is not None
        complain(f"refused {line.document_id}: {line.error.message} ({line.error.code})")
    for job in failures:
        why = job.error.message if job.error else "no reason given"
        complain(f"{job.status} {job.document_id}: {why}")
    if unreadable or refused or failures:
        raise typer.Exit(FAILED)


def documents(
    found: list[FoundFile], unreadable: list[str], collection: str, mode: WriteMode
) -> Iterator[Document]:
    """The files as documents; those that are none are noted in ``unreadable``."""
    for place in found:
        try:
            file = read_file(place)
        except UnreadableFileError as error:
            unreadable.append(str(error))
            continue
        yield Document(
            text=file.text,
            id=file.document_id,
            title=file.title,
            collection=collection,
            mode=mode,
        )


def check_distinct(found: list[FoundFile]) -> None:
    """Two files of one id would replace each other."""
    seen: dict[str, Path] = {}
    for place in found:
        other = seen.setdefault(place.document_id, place.path)
        if other != place.path:
            raise CommandError(
                f"{other} and {place.path} would both be document {place.document_id!r}; "
                "write them from a directory above both, or one by one with --id"
            )


def report(
    jobs: list[Job],
    lines: list[BatchLine],
    *,
    wait: bool,
    as_json: bool,
    unreadable: list[str],
) -> None:
    if as_json:
        refused = [line for line in lines if line.error is not None]
        print_json({"jobs": jobs, "refused": refused, "skipped": unreadable})
        return
    done = sum(job.succeeded for job in jobs)
    if not wait:
        say(f"{len(jobs)} documents queued; follow them with `paramem jobs list`")
        return
    refining = sum(job.refine_job_id is not None for job in jobs)
    behind = f", {refining} are refined behind" if refining else ""
    say(f"{done} of {len(lines) + len(unreadable)} documents readable{behind}")
    sys.stdout.flush()
