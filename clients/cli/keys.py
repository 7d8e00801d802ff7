"""``paramem keys``: makes API keys. The server keeps digests, so a key is shown once."""

from __future__ import annotations

import secrets
from typing import Annotated

import typer

from clients.cli.console import complain, print_json, say
from clients.cli.failures import USAGE, CommandError, OneLineErrors
from clients.cli.options import AsJson

app = typer.Typer(cls=OneLineErrors, no_args_is_help=True, help="Make API keys for a server.")
PREFIX = "paramem_"  # what scanners for leaked secrets can look for
KEY_BYTES = 24


@app.callback()
def keys() -> None:
    """Make API keys for a server."""


@app.command("new")
def new_key(
    name: Annotated[str, typer.Option("--name", help="Whose key it is; goes into logs.")],
    scopes: Annotated[str, typer.Option("--scopes", help="Of read, write, admin.")] = "read,write",
    collections: Annotated[
        str | None, typer.Option("--collections", help="Only these.", show_default="all")
    ] = None,
    rate: Annotated[str | None, typer.Option("--rate", help="Requests, e.g. 10/s, 100/m.")] = None,
    documents: Annotated[int | None, typer.Option("--documents", help="Most stored.")] = None,
    num_bytes: Annotated[
        str | None, typer.Option("--bytes", help="Most stored, e.g. 500MB, 1GB.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key: shown once on stderr, its line for the server's key file on stdout.

    Append the line to the file that PARAMEM_API_KEY_FILE names; a running server takes it up
    within a second. Deleting the line ends the key.
    """
    from server.keys import KeyLineError, digest_of, parse_line

    key = PREFIX + secrets.token_hex(KEY_BYTES)
    options = {
        "scopes": scopes,
        "collections": collections,
        "rate": rate,
        "documents": documents,
        "bytes": num_bytes,
    }
    given = [f"{option}={value}" for option, value in options.items() if value is not None]
    line = " ".join([name, f"sha256:{digest_of(key.encode()).hex()}", *given])
    try:
        if parse_line(line).name != name:
            raise KeyLineError("has a name of several words")
    except KeyLineError as error:
        raise CommandError(f"the line for the key file {error}", exit_code=USAGE) from error
    if as_json:
        print_json({"key": key, "line": line})
        return
    complain(f"key, shown once: {key}")
    say(line)
