"""Memory against a real RAG endpoint: two servers, one LLM, the same load on each in turn.

    python -m benchmarks.endpoints --append

``paramem up`` and ``paramem rag`` side by side, the same documents in both, then each cell of the
grid as ``paramem bench`` would load it: first one endpoint, then the other, the same requests in
the same order. Without --data the documents are the demo's, joined into passages of about 150
tokens. K counts passages: five documents of 512 tokens are K = 20. With --ignore-eos every answer
takes --new-tokens, else it ends where the LLM ends it.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import math
import os
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path

from benchmarks.contexts import long_documents
from benchmarks.results import RESULTS
from clients.calls import READ_ALL, QueryOptions
from clients.demo import demo_questions, demo_server
from clients.evaluation.data import EvalDocument, Question, QuestionSet, load_set
from clients.loadtest.endpoint import Endpoint, prepare_endpoint
from clients.loadtest.measure import Figures, Slo, latency_ratios, throughput_ratio
from clients.loadtest.replay import Replayed, replay_on
from clients.loadtest.schedule import Schedule

COLLECTION = "bench"
COMMANDS = {"memory": "up", "RAG": "rag"}
SLO = Slo(ttft_ms=1000, e2e_ms=5000)
STAGES = ("embed", "rerank", "load", "queue", "expand", "prefill", "decode")
Tell = Callable[[str], None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="directory of question sets")
    parser.add_argument("--set", dest="set_name", default="squad-mini")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--top-k", type=int, nargs="+", default=[1, 5])
    parser.add_argument("--new-tokens", type=int, nargs="+", default=[16])
    parser.add_argument(
        "--score-margin", type=float, nargs="+", default=[None], help="default the server's"
    )
    parser.add_argument(
        "--coarse-slots", type=int, nargs="+", default=[None], help="default the server's"
    )
    parser.add_argument("--ignore-eos", action="store_true")
    parser.add_argument("--requests", type=int, default=24, help="of a cell, at least")
    parser.add_argument("--append", action="store_true", help=f"append to {RESULTS.name}")
    arguments = parser.parse_args()
    questions = load_set(arguments.data, arguments.set_name) if arguments.data else demo_set()
    lines: list[str] = []

    def tell(line: str) -> None:
        lines.append(line)
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        urls = {
            name: stack.enter_context(demo_server(home / name, _quiet, command=command))
            for name, command in COMMANDS.items()
        }
        endpoints = [
            prepare_endpoint(name, url, questions.documents, COLLECTION, _silent)
            for name, url in urls.items()
        ]
        engine = endpoints[0].engine
        tell_about(tell, endpoints, questions, ignore_eos=arguments.ignore_eos)
        stages: list[str] = []
        grid = itertools.product(
            arguments.top_k,
            arguments.score_margin,
            arguments.coarse_slots,
            arguments.new_tokens,
            arguments.concurrency,
        )
        for top_k, margin, coarse_slots, new_tokens, concurrency in grid:
            # full rounds: the last ones would find an emptier server
            number = concurrency * math.ceil(arguments.requests / concurrency)
            schedule = Schedule(number, warmup=2, rate=None, concurrency=concurrency)
            options: QueryOptions = {
                "collection": COLLECTION,
                "top_k": top_k,
                "max_new_tokens": new_tokens,
                "ignore_eos": arguments.ignore_eos,
            }
            ours: QueryOptions = {  # a RAG reads all that it finds
                **options,
                "score_margin": margin,
                "coarse_slots": coarse_slots,
            }
            cell = [
                asyncio.run(replay_on(urls["memory"], schedule, questions, ours)),
                asyncio.run(replay_on(urls["RAG"], schedule, questions, options)),
            ]
            margin = engine.score_margin if margin is None else margin
            load = f"{top_k} | {told(margin)} | {told(coarse_slots or engine.coarse_slots)}"
            load += f" | {new_tokens} | {concurrency}"
            figures = [Figures.of(replayed, SLO) for replayed in cell]
            for line in rows(list(urls), load, cell, figures):
                tell(line)
            stages += stage_rows(list(urls), f"{top_k} | {new_tokens} | {concurrency}", figures)
        tell("\nThe server's stages, means in milliseconds:\n")
        tell(f"| K | new tokens | concurrency | endpoint | {' | '.join(STAGES)} |")
        tell("|--:|--:|--:|---" + "|--:" * len(STAGES) + "|")
        for line in stages:
            tell(line)
    if arguments.append:
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")


def demo_set() -> QuestionSet:
    documents = [
        EvalDocument(id=document.id or "", text=document.text) for document in long_documents()
    ]
    questions = [
        Question(id=str(number), question=question.question, answers=question.answers)
        for number, question in enumerate(demo_questions())
    ]
    return QuestionSet("demo", tuple(documents), tuple(questions))


def tell_about(
    tell: Tell, endpoints: Sequence[Endpoint], questions: QuestionSet, *, ignore_eos: bool
) -> None:
    engine = endpoints[0].engine
    tell(f"\n## Endpoints, {time.strftime('%Y-%m-%d')}\n")
    tell(
        f"{engine.model}, {engine.dtype} on {engine.device} ({os.cpu_count()} cores, "
        f"{platform.machine()}); m = {engine.slots}, d = {engine.z_dim}; RAG: "
        f"the same LLM with its text reader, all-MiniLM-L6-v2, FAISS; {questions.name}, "
        f"{endpoints[0].passages} passages; {'exactly' if ignore_eos else 'at most'} so many new "
        f"tokens; closed loop; torch {version('torch')}, transformers "
        f"{version('transformers')}. Ratios are RAG / memory of medians (throughput: "
        "memory / RAG) with 95 % bootstrap intervals. Command: `"
        f"{shlex.join(['python', '-m', 'benchmarks.endpoints', *sys.argv[1:]])}`.\n"
    )
    for endpoint in endpoints:
        tell(
            f"- {endpoint.name}: {endpoint.row_bytes:,.0f} bytes a passage in the shards (text and "
            f"catalogue are the same); {endpoint.documents_per_s or 0:.1f} documents/s written"
        )
    tell(
        "\n| K | score margin | slots after the best | new tokens | concurrency | endpoint "
        "| positions | TTFT p50 / p99 ms | e2e p50 / p99 ms | requests/s | tokens/s | errors "
        "| TTFT ratio | e2e ratio | throughput ratio |"
    )
    tell("|--:|--:|--:|--:|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|")


def rows(
    names: Sequence[str], load: str, cell: Sequence[Replayed], figures: Sequence[Figures]
) -> list[str]:
    """Of one cell. An endpoint that refused every request has no latency."""
    ratios = latency_ratios(cell[0], cell[1])
    compared = ["– | – | –", "| |"]
    if ratios:
        throughput = throughput_ratio(*figures)
        compared[0] = f"{ratios['ttft']:.2f} | {ratios['e2e']:.2f} | {throughput:.2f}"
    return [
        f"| {load} | {name} | {found.prompt_positions:.0f} | {latency(found, 'ttft')} "
        f"| {latency(found, 'e2e')} | {found.requests_per_s:.2f} | {found.tokens_per_s:.1f} "
        f"| {errors(found)} | {ratio} |"
        for name, found, ratio in zip(names, figures, compared, strict=True)
    ]


def stage_rows(names: Sequence[str], load: str, figures: Sequence[Figures]) -> list[str]:
    """Where the time of one cell goes."""
    lines = []
    for name, found in zip(names, figures, strict=True):
        spent = found.server_ms
        stages = [f"{spent[stage]:.1f}" if stage in spent else "" for stage in STAGES]
        lines.append(f"| {load} | {name} | {' | '.join(stages)} |")
    return lines


def told(option: float | None) -> str:
    """Of what is read."""
    return "all" if option is None or option >= READ_ALL else str(option)


def latency(found: Figures, what: str) -> str:
    ms = found.latency_ms[what]
    return f"{ms[50].value:.0f} / {ms[99].value:.0f}" if ms else "–"


def errors(found: Figures) -> str:
    return ", ".join(f"{number} {code}" for code, number in found.errors.items()) or "0"


def _quiet(_what: str) -> None:
    """The servers say what they wait for; a benchmark does not repeat it."""


def _silent(_stage: str, _amount: float, _total: int) -> None:
    """Nor what is written."""


if __name__ == "__main__":
    main()
