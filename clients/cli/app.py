"""The ``paramem`` command line: one typer app, its commands in files of their own."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from clients.cli import (
    bench,
    demo,
    evaluate,
    jobs,
    keys,
    memories,
    operate,
    query,
    rag,
    reencode,
    snapshots,
    soak,
    train,
    write,
)
from clients.cli.console import complain, say
from clients.cli.failures import FAILED, OneLineErrors
from clients.cli.openmp import sleep_while_waiting
from paramem import __version__

app = typer.Typer(
    name="paramem",
    cls=OneLineErrors,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="An LLM that remembers documents as vectors and answers from them.",
)

RUN, USE, MEASURE = "Run it", "Use it", "Measure it"

app.command(rich_help_panel=RUN)(operate.up)
app.command(rich_help_panel=RUN)(operate.serve)
app.command(rich_help_panel=RUN)(operate.worker)
app.command(rich_help_panel=RUN)(operate.doctor)
app.command("rebuild-index", rich_help_panel=RUN)(operate.rebuild_index)
app.command(rich_help_panel=RUN)(operate.compact)
app.command(rich_help_panel=RUN)(snapshots.snapshot)
app.command(rich_help_panel=RUN)(snapshots.restore)
app.add_typer(snapshots.app, name="snapshots", rich_help_panel=RUN)
app.command(rich_help_panel=RUN)(reencode.reencode)
app.add_typer(keys.app, name="keys", rich_help_panel=RUN)
app.add_typer(operate.models, name="model", rich_help_panel=RUN)
app.command(rich_help_panel=RUN)(train.train)
app.command(rich_help_panel=USE)(write.write)
app.command(rich_help_panel=USE)(query.query)
app.add_typer(jobs.app, name="jobs", rich_help_panel=USE)
app.add_typer(memories.app, name="memories", rich_help_panel=USE)
app.command("eval", rich_help_panel=MEASURE)(evaluate.evaluate)
app.command(rich_help_panel=MEASURE)(demo.demo)
app.command(rich_help_panel=MEASURE)(bench.bench)
app.command(rich_help_panel=MEASURE)(rag.rag)
app.command(rich_help_panel=MEASURE)(soak.soak)


def _print_version(wanted: bool) -> None:
    if wanted:
        say(f"paramem {__version__}")
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show it.")
    ] = False,
) -> None:
    """An LLM that remembers documents as vectors and answers from them."""


def main() -> None:
    """Entry point. Even a bug ends in one line; PARAMEM_LOG_LEVEL=DEBUG shows where it is."""
    sleep_while_waiting()
    try:
        app()
    except Exception as error:
        if os.environ.get("PARAMEM_LOG_LEVEL", "").upper() == "DEBUG":
            raise
        complain(f"error: {type(error).__name__}: {error} (set PARAMEM_LOG_LEVEL=DEBUG for more)")
        sys.exit(FAILED)


if __name__ == "__main__":
    main()
