"""``paramem reencode``: a collection's documents, again, with the bundle that is loaded now."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from clients.cli.console import print_json, progress_bar, say
from clients.cli.operate import open_store
from clients.cli.options import AsJson, Home
from paramem.settings import load_settings


def reencode(
    source: Annotated[str, typer.Argument(help="Collection of another bundle.")],
    target: Annotated[str, typer.Argument(help="Collection of the bundle in use.")],
    mode: Annotated[
        Literal["fast", "fit", "auto"], typer.Option("--mode", help="How documents are written.")
    ] = "auto",
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Queue every document of one collection for another; a worker then writes them.

    Create the target first (PUT /collections/TARGET, with the new bundle in use). The source stays
    as it is; delete it when its successor answers. Documents whose text was not kept are named.
    """
    with open_store(load_settings(home=home)) as store:
        from memory_store.records import WriteMode
        from memory_store.reencoding import reencode as run

        total = store.collection(source).documents
        with progress_bar("queueing", total, quiet=as_json) as bar:
            report = run(store, source, target, mode=WriteMode(mode), progress=bar.move_to)
    if as_json:
        print_json({"queued": report.queued, "without_text": list(report.without_text)})
        return
    say(f"{report.queued} documents queued for {target}")
    if report.without_text:
        say(f"{len(report.without_text)} have no text to be written from:")
        for document_id in report.without_text:
            say(document_id)
