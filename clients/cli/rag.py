"""``paramem rag``: the RAG endpoint, to be compared with. Same HTTP contract, same LLM."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from clients.cli.console import say
from clients.cli.openmp import spin_while_waiting
from clients.cli.operate import supervise
from clients.cli.options import Home, Host, Port
from clients.cli.refusals import refusals
from paramem.settings import load_settings

Role = Annotated[
    Literal["both", "server", "worker"], typer.Option("--role", help="Run only one of the two.")
]


def rag(host: Host = None, port: Port = None, home: Home = None, role: Role = "both") -> None:
    """Run the RAG endpoint: encoder, vector index, passages as text in the LLM's prompt.

    Give it a --home and a --port of its own.
    """
    settings = load_settings(host=host, port=port, home=home)
    if role == "both":
        say(f"starting RAG in {settings.home} with {settings.rag_encoder} and {settings.model}")
        supervise(
            settings,
            server=["rag", "--role", "server"],
            worker=["rag", "--role", "worker"],
        )
    if role == "server":
        spin_while_waiting()
    with refusals():
        from baselines.rag import run_rag_worker, serve_rag

        (serve_rag if role == "server" else run_rag_worker)(settings)
