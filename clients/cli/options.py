"""Options that several commands share, declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clients.client import Client
from clients.retries import RetryPolicy

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines instead.")]
CollectionName = Annotated[str, typer.Option("--collection", help="Which collection.")]
ScoreMargin = Annotated[
    float | None,
    typer.Option(
        "--score-margin",
        min=0.0,
        help="Read the selected memories that score at most so far below the best.",
        show_default="the server's",
    ),
]
CoarseSlots = Annotated[
    int | None,
    typer.Option(
        "--coarse-slots",
        min=1,
        help="Slots that each memory but the best is read in.",
        show_default="the server's",
    ),
]
Url = Annotated[
    str | None,
    typer.Option("--url", help="Server to talk to.", show_default="PARAMEM_URL, or the local one"),
]
Home = Annotated[
    Path | None,
    typer.Option("--home", help="Directory of all state.", show_default="PARAMEM_HOME"),
]
Host = Annotated[
    str | None, typer.Option("--host", help="Address to listen on.", show_default="127.0.0.1")
]
Port = Annotated[
    int | None,
    typer.Option("--port", min=0, max=65535, help="Port to listen on.", show_default="8420"),
]


def open_client(url: str | None) -> Client:
    """A client that waits out a busy server, but not for long one that is not there."""
    return Client(url, retries=RetryPolicy(attempts=4, first_wait_s=0.1))
