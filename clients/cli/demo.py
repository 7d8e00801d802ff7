"""``paramem demo``: the whole service on this machine, shown in a few minutes."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from clients.calls import QueryOptions
from clients.cli.console import (
    complain,
    err,
    failed_jobs,
    follow_jobs,
    progress_bar,
    say,
    say_columns,
)
from clients.cli.failures import CommandError
from clients.cli.options import Home
from clients.cli.query import describe_cost, stream_answer
from clients.client import Client
from clients.demo import DemoQuestion, demo_documents, demo_questions, demo_server
from clients.documents import Document
from clients.errors import ConflictError
from clients.results import Answer

MAX_NEW_TOKENS = 32
SHOWN_MEMORIES = 3


def demo(
    refine_s: Annotated[
        float, typer.Option("--refine-s", min=0, help="Most seconds spent on refining memories.")
    ] = 120.0,
    home: Home = None,
) -> None:
    """Start a server, write 20 documents, ask questions, compare with closed-book answers.

    Without --home everything happens in a temporary directory that is removed at the end.
    """
    documents = demo_documents("auto" if refine_s > 0 else "fast")
    questions = demo_questions()
    with sigterm_as_exit(), demo_home(home) as place, served(place) as client:
        show_engine(client)
        write_documents(client, documents, refine_s)
        pairs = [ask(client, question) for question in questions]
        show_verdict(questions, pairs)
        say("stopping …")
    say("stopped; nothing is left running")


@contextmanager
def served(home: Path) -> Iterator[Client]:
    with ExitStack() as stack:
        if not err.is_terminal:
            complain("starting the server …")
        with progress_bar("starting the server", None) as bar:
            server = demo_server(home, lambda what: bar.move_to(0, what))
            url = stack.enter_context(server)
        say(f"server     {url} (state in {home})")
        yield stack.enter_context(Client(url))


def show_engine(client: Client) -> None:
    engine = client.version().engine
    if engine is not None:
        say(
            f"model      {engine.model} on {engine.device} ({engine.dtype}), "
            f"{engine.slots} slots x {engine.z_dim} numbers a passage"
        )


def write_documents(client: Client, documents: Sequence[Document], refine_s: float) -> None:
    """Fast memories of everything, then as much refinement as the budget allows."""
    job_ids = []
    for line in client.write_many(documents):
        if line.job is None:
            raise CommandError(f"{line.document_id}: {line.error.message if line.error else '?'}")
        job_ids.append(line.job.job_id)
    written = follow_jobs(client, job_ids, "writing")
    for job in failed_jobs(written):
        why = job.error.message if job.error else "no reason given"
        raise CommandError(f"{job.document_id} could not be written: {why}")
    say(f"written    {len(written.finished)} documents, readable as fast memories")
    refine_ids = [job.refine_job_id for job in written.finished if job.refine_job_id]
    if not refine_ids:
        return
    refined = follow_jobs(client, refine_ids, "refining", budget_s=refine_s)
    for job_id in refined.pending:
        try:
            client.cancel(job_id)  # the questions should not share the processor with it
        except ConflictError:
            continue  # it ended in between
    done = [job for job in refined.finished if job.succeeded]
    within = f" within {refine_s:g} s, those asked about first" if refined.pending else ""
    say(f"refined    {len(done)} of {len(refine_ids)} memories{within}")


def ask(client: Client, question: DemoQuestion) -> tuple[Answer, Answer]:
    """The same question from memory and closed book."""
    say("")
    say(f"question   {question.question}")
    say("memory     ", end="")
    remembered = stream_answer(
        client, question.question, {"max_new_tokens": MAX_NEW_TOKENS}, one_line=True
    )
    used = ", ".join(
        f"{memory.title or memory.document_id} ({memory.score:.2f})"
        for memory in remembered.memories[:SHOWN_MEMORIES]
    )
    say(f"           from {used or 'no memory'}")
    say(f"           {describe_cost(remembered)}")
    say("closed     ", end="")
    without: QueryOptions = {"max_new_tokens": MAX_NEW_TOKENS, "context": "none"}
    closed = stream_answer(client, question.question, without, one_line=True)
    say(f"           {describe_cost(closed)}")
    say(f"expected   {' or '.join(question.answers)}")
    return remembered, closed


def show_verdict(questions: Sequence[DemoQuestion], pairs: Sequence[tuple[Answer, Answer]]) -> None:
    rows = []
    counts = [0, 0]
    for question, (remembered, closed) in zip(questions, pairs, strict=True):
        right = [question.is_answered_by(answer.answer) for answer in (remembered, closed)]
        counts = [count + int(hit) for count, hit in zip(counts, right, strict=True)]
        found = any(memory.document_id == question.document for memory in remembered.memories)
        rows.append((*(_mark(hit) for hit in (*right, found)), question.question))
    say("")
    headings = ("memory", "closed book", "right document read", "question")
    say_columns(headings, rows)
    say(
        f"\nThe expected answer is in {counts[0]} of {len(questions)} answers from memory "
        f"and in {counts[1]} of {len(questions)} closed-book answers of the same model."
    )


def _mark(hit: bool) -> str:
    return "yes" if hit else "no"


@contextmanager
def demo_home(home: Path | None) -> Iterator[Path]:
    if home is not None:
        yield home.expanduser().absolute()
        return
    with tempfile.TemporaryDirectory(prefix="paramem-demo-") as directory:
        yield Path(directory)


@contextmanager
def sigterm_as_exit() -> Iterator[None]:
    """SIGTERM unwinds like Ctrl-C, so that the server is stopped too."""

    def handle(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
