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
from clients.results import Answer, Context

MAX_NEW_TOKENS = 32
SHOWN_MEMORIES = 3
CONTEXTS: dict[Context, str] = {"memory": "memory", "text": "text", "none": "closed"}
"""What the LLM reads, and how the demo calls it."""

Answers = dict[Context, Answer]


def demo(
    refine_s: Annotated[
        float, typer.Option("--refine-s", min=0, help="Most seconds spent on refining memories.")
    ] = 120.0,
    home: Home = None,
) -> None:
    """Start a server, write 20 documents, ask questions, compare with text and closed book.

    Without --home everything happens in a temporary directory that is removed at the end.
    """
    documents = demo_documents("auto" if refine_s > 0 else "fast")
    questions = demo_questions()
    with signals_as_exit(), demo_home(home) as place, served(place) as client:
        show_engine(client)
        write_documents(client, documents, refine_s)
        asked = [ask(client, question) for question in questions]
        show_verdict(questions, asked)
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


def ask(client: Client, question: DemoQuestion) -> Answers:
    """The same question to the same LLM: from memory, from the passages as text, closed book."""
    say("")
    say(f"question   {question.question}")
    answers: Answers = {}
    for context, label in CONTEXTS.items():
        say(f"{label:<11}", end="")
        options: QueryOptions = {"max_new_tokens": MAX_NEW_TOKENS, "context": context}
        answer = stream_answer(client, question.question, options, one_line=True)
        if context == "memory":
            used = ", ".join(
                f"{memory.title or memory.document_id} ({memory.score:.2f})"
                for memory in answer.memories[:SHOWN_MEMORIES]
                if memory.read
            )
            say(f"           from {used or 'no memory'}")
        say(f"           {describe_cost(answer)}")
        answers[context] = answer
    say(f"expected   {' or '.join(question.answers)}")
    return answers


def show_verdict(questions: Sequence[DemoQuestion], asked: Sequence[Answers]) -> None:
    rows = []
    counts = dict.fromkeys(CONTEXTS, 0)
    for question, answers in zip(questions, asked, strict=True):
        right = {context: question.is_answered_by(answers[context].answer) for context in CONTEXTS}
        for context, hit in right.items():
            counts[context] += hit
        read = [memory.document_id for memory in answers["memory"].memories if memory.read]
        found = question.document in read
        rows.append((*(_mark(hit) for hit in (*right.values(), found)), question.question))
    say("")
    say_columns((*CONTEXTS.values(), "right document read", "question"), rows)
    total = len(questions)
    say(
        f"\nThe expected answer is in {counts['memory']} of {total} answers from memory, in "
        f"{counts['text']} of {total} from the same passages as text in the prompt, and in "
        f"{counts['none']} of {total} closed-book answers of the same model."
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
def signals_as_exit() -> Iterator[None]:
    """SIGTERM and SIGINT unwind, so that the server is stopped too.

    SIGINT as well: Python leaves it ignored in a process that a script started in the background.
    """

    def handle(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, handle) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
