"""``paramem query``: an answer, streamed, and what it was made from."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal

import typer

from clients.calls import QueryOptions
from clients.cli.console import print_json, say, say_columns
from clients.cli.failures import CommandError
from clients.cli.options import AsJson, CoarseSlots, CollectionName, ScoreMargin, Url, open_client
from clients.client import Client
from clients.events import DeltaEvent, DoneEvent
from clients.results import Answer, Context

BREAKS = re.compile(r"\s*\n\s*")
STAGES = ("embed", "select", "load", "queue", "expand", "prefill", "ttft", "decode", "total")


def query(
    text: Annotated[str, typer.Argument(help="The question.")],
    collection: CollectionName = "default",
    top_k: Annotated[
        int | None, typer.Option("--top-k", help="Memories to read.", show_default="5")
    ] = None,
    selection: Annotated[
        str | None,
        typer.Option(
            "--selection",
            help="How memories are ranked: router, cosine, attention, bm25 or hybrid.",
            show_default="the server's: attention, or router without a trained bundle",
        ),
    ] = None,
    context: Annotated[
        Literal["memory", "text", "none"],
        typer.Option(
            "--context",
            help="memory: z vectors; text: the same passages as text; none: closed book.",
        ),
    ] = "memory",
    score_margin: ScoreMargin = None,
    coarse_slots: CoarseSlots = None,
    filters: Annotated[
        str | None,
        typer.Option("--filters", help='JSON on metadata, e.g. \'{"title": "Lighthouse"}\'.'),
    ] = None,
    max_new_tokens: Annotated[int | None, typer.Option("--max-new-tokens")] = None,
    temperature: Annotated[float | None, typer.Option("--temperature")] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Ask a question; the answer streams, then the memories it was made from and the timings."""
    options: QueryOptions = {
        "collection": collection,
        "context": context,
        "score_margin": score_margin,
        "coarse_slots": coarse_slots,
    }
    if top_k is not None:
        options["top_k"] = top_k
    if selection is not None:
        options["selection"] = selection
    if filters is not None:
        options["filters"] = parse_filters(filters)
    if max_new_tokens is not None:
        options["max_new_tokens"] = max_new_tokens
    if temperature is not None:
        options["temperature"] = temperature
    with open_client(url) as client:
        if as_json:
            print_json(client.query(text, **options))
            return
        answer = stream_answer(client, text, options)
    print_sources(answer, context)


def stream_answer(
    client: Client, text: str, options: QueryOptions, *, one_line: bool = False
) -> Answer:
    """Print the answer as it arrives; return it whole. ``one_line`` prints breaks as spaces."""
    with client.query_stream(text, **options) as events:
        for event in events:
            if isinstance(event, DeltaEvent):
                say(BREAKS.sub(" ", event.text) if one_line else event.text, end="")
            elif isinstance(event, DoneEvent):
                say("" if event.answer.answer.strip() else "(nothing but white space)")
                return event.answer
    raise AssertionError("a query stream ends with a DoneEvent or raises")


def print_sources(answer: Answer, context: Context) -> None:
    """The memories selected, best first, and where the time went."""
    if answer.memories:
        rows = [
            (
                memory.document_id,
                str(memory.passage),
                f"{memory.score:.3f}",
                "yes" if memory.read else "no",
                memory.title or "",
            )
            for memory in answer.memories
        ]
        say("\nmemories selected")
        say_columns(("document", "passage", "score", "read", "title"), rows)
    elif context != "none":
        say("no memory matched")
    say(describe_cost(answer))


def describe_cost(answer: Answer) -> str:
    """One line: stages in ms, in the order they happen, then tokens."""
    times = answer.timings_ms
    order = [*(name for name in STAGES if name in times), *(times.keys() - set(STAGES))]
    stages = " · ".join(f"{name} {times[name]:.0f}" for name in order)
    usage = answer.usage
    slots = f" ({usage.memory_slots} of them memory)" if usage.memory_slots else ""
    return (
        f"{stages} ms · {usage.prompt_tokens} positions{slots} → {usage.completion_tokens} tokens"
    )


def parse_filters(filters: str) -> dict[str, Any]:
    try:
        value = json.loads(filters)
    except ValueError as error:
        raise CommandError(f"--filters is not JSON: {error}", exit_code=2) from error
    if not isinstance(value, dict):
        raise CommandError("--filters must be a JSON object", exit_code=2)
    return value
