"""What reading memories costs against reading text: the same LLM, questions and server, paired.

Every question is asked three ways in a shuffled order: from K = 5 memories, all of which are read,
from the same five passages as text in the prompt, and closed book. Times are the client's, over a
real socket, from sending the request to the first piece of text (TTFT) and to the last event (e2e).
Text is given its passages for free here (no embedder, no vector database): this is the rival's best
case. The full load test against a RAG endpoint comes with ``paramem bench``.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from benchmarks.results import RESULTS, publish
from clients import Client, DeltaEvent, Document
from clients.calls import READ_ALL
from clients.demo import demo_documents, demo_questions, demo_server
from clients.evaluation.bootstrap import estimate, percentile
from clients.results import Context

TOP_K = 5
NEW_TOKENS = 16
DOCUMENTS_PER_PASSAGE = 2  # two demo documents make one passage of about 150 tokens
CONTEXTS: tuple[Context, ...] = ("memory", "text", "none")


@dataclass(frozen=True, slots=True)
class Timing:
    """Of one answer, in milliseconds."""

    ttft: float
    e2e: float
    positions: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8, help="times each question is asked")
    parser.add_argument("--append", action="store_true", help=f"append to {RESULTS.name}")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as home,
        demo_server(Path(home), _tell) as url,
        Client(url) as client,
    ):
        report = measure(client, arguments.rounds)
    publish(report, append=arguments.append)


def measure(client: Client, rounds: int) -> list[str]:
    """Write the passages, time the answers, and lay out the table."""
    jobs = client.write_many(long_documents())
    for line in jobs:
        if line.job is not None:
            client.wait(line.job.job_id)
    questions = [question.question for question in demo_questions()]
    for context in CONTEXTS:  # warm-up, not counted
        ask(client, questions[0], context)
    order = random.Random(0)
    timings: dict[Context, list[Timing]] = defaultdict(list)
    for _ in range(rounds):
        for question in questions:
            for context in order.sample(CONTEXTS, len(CONTEXTS)):
                timings[context].append(ask(client, question, context))
    return table(client, timings)


def long_documents() -> list[Document]:
    """Demo documents joined into passages of about 150 tokens each."""
    short = demo_documents("fast")
    return [
        Document(
            text="\n\n".join(document.text for document in short[i : i + DOCUMENTS_PER_PASSAGE]),
            id=f"passage-{i}",
            mode="fast",
        )
        for i in range(0, len(short), DOCUMENTS_PER_PASSAGE)
    ]


def ask(client: Client, question: str, context: Context) -> Timing:
    started = time.perf_counter()
    first = 0.0
    with client.query_stream(
        question,
        top_k=TOP_K,
        score_margin=READ_ALL,
        max_new_tokens=NEW_TOKENS,
        context=context,
    ) as events:
        for event in events:
            if isinstance(event, DeltaEvent) and not first:
                first = time.perf_counter()
        e2e = time.perf_counter()
    answer = event.answer  # type: ignore[union-attr] # a stream that did not raise ends with done
    first = first or e2e  # an answer of no text
    positions = answer.usage.prompt_tokens
    return Timing(1000 * (first - started), 1000 * (e2e - started), positions)


def table(client: Client, timings: dict[Context, list[Timing]]) -> list[str]:
    engine = client.version().engine
    assert engine is not None
    lines = [
        f"\n## Contexts, {time.strftime('%Y-%m-%d')}\n",
        f"{engine.model}, {engine.dtype} on {engine.device} ({os.cpu_count()} cores, "
        f"{platform.machine()}); K = {TOP_K}, m = {engine.slots}, d = {engine.z_dim}, "
        f"{NEW_TOKENS} new tokens at most, concurrency 1, n = {len(timings['memory'])} per row, "
        f"paired; torch {version('torch')}, transformers {version('transformers')}. "
        "Command: `make bench`.\n",
        "| context | prompt positions | TTFT p50 ms | TTFT p95 ms | e2e p50 ms |",
        "|---|--:|--:|--:|--:|",
    ]
    for context in CONTEXTS:
        rows = timings[context]
        ttft = [row.ttft for row in rows]
        lines.append(
            f"| {context} | {median([float(row.positions) for row in rows]):.0f} "
            f"| {median(ttft):.0f} | {quantile(ttft, 95):.0f} "
            f"| {median([row.e2e for row in rows]):.0f} |"
        )
    lines += [
        "",
        f"Ratio text / memory: TTFT {ratio(timings, 'ttft')}, e2e {ratio(timings, 'e2e')}.",
    ]
    return lines


def ratio(timings: dict[Context, list[Timing]], what: str) -> str:
    """Of text to memory."""
    return median_of_ratios(
        [getattr(timing, what) for timing in timings["text"]],
        [getattr(timing, what) for timing in timings["memory"]],
    )


def median_of_ratios(over: Sequence[float], under: Sequence[float]) -> str:
    """Of the pairs, with its 95 % bootstrap interval."""
    ratios = [a / b for a, b in zip(over, under, strict=True)]
    found = estimate(ratios, percentile(50))
    assert found is not None
    return f"{found:.2f}"


def median(values: Sequence[float]) -> float:
    return quantile(values, 50)


def quantile(values: Sequence[float], q: float) -> float:
    found = estimate(values, percentile(q))
    assert found is not None
    return found.value


def _tell(_what: str) -> None:
    """The server says what it waits for; a benchmark does not repeat it."""


if __name__ == "__main__":
    main()
