"""``paramem memories``: what is remembered."""

from __future__ import annotations

from typing import Annotated

import typer

from clients.cli.console import complain, print_json, say, say_columns
from clients.cli.failures import OneLineErrors
from clients.cli.options import AsJson, CollectionName, Url, open_client

app = typer.Typer(cls=OneLineErrors, no_args_is_help=True, help="Look at and delete memories.")
DocumentId = Annotated[str, typer.Argument(help="A document id.")]


@app.command("list")
def list_memories(
    collection: Annotated[str | None, typer.Option("--collection")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1)] = 20,
    cursor: Annotated[str | None, typer.Option("--cursor", help="From the page before.")] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """List documents."""
    with open_client(url) as client:
        page = client.memories(collection=collection, limit=limit, cursor=cursor)
    if as_json:
        print_json(page)
        return
    rows = [
        (m.document_id, m.collection, str(m.version), str(m.num_chars), str(m.bytes), m.title or "")
        for m in page.items
    ]
    say_columns(("document", "collection", "version", "chars", "bytes", "title"), rows)
    if page.next_cursor:
        complain(f"more: paramem memories list --cursor {page.next_cursor}")


@app.command()
def show(
    document_id: DocumentId,
    collection: CollectionName = "default",
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Show one document's memories."""
    with open_client(url) as client:
        memory = client.memory(document_id, collection=collection)
    if as_json:
        print_json(memory)
        return
    kept = "text kept" if memory.has_text else "text dropped"
    say(f"{memory.document_id}: {memory.title or 'untitled'}")
    say(f"version {memory.version}, {memory.num_chars} characters ({kept}), {memory.bytes} bytes")
    rows = [
        (
            str(passage.passage),
            passage.tier,
            str(passage.num_tokens),
            str(passage.bytes),
            _number(passage.stats.get("nats_per_token")),
            _number(passage.stats.get("nats_per_token_without_memory")),
        )
        for passage in memory.passages
    ]
    say_columns(("passage", "tier", "tokens", "bytes", "nats/token", "without memory"), rows)


@app.command()
def delete(
    document_id: DocumentId,
    collection: CollectionName = "default",
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Forget a document now; its bytes go at the next `paramem compact`."""
    with open_client(url) as client:
        client.delete(document_id, collection=collection)
    if as_json:
        print_json({"deleted": document_id})
    else:
        say(f"deleted {document_id}")


@app.command()
def reconstruct(
    document_id: DocumentId,
    collection: CollectionName = "default",
    max_new_tokens: Annotated[int | None, typer.Option("--max-new-tokens")] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Let the model recite a document from its memory alone."""
    with open_client(url) as client:
        recited = client.reconstruction(
            document_id, collection=collection, max_new_tokens=max_new_tokens
        )
    if as_json:
        print_json(recited)
        return
    for passage in recited.passages:
        say(f"--- passage {passage.passage}, {passage.num_tokens} tokens")
        say(passage.text)


def _number(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, int | float) else "–"
