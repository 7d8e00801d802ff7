"""``paramem bench``: the same load on one endpoint, or on two to compare them."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from clients.calls import QueryOptions
from clients.cli.console import Bar, complain, progress_bar, say, say_columns
from clients.cli.failures import USAGE, CommandError
from clients.cli.options import CoarseSlots, ScoreMargin, Url, open_client
from clients.evaluation.data import QuestionSet, load_set
from clients.evaluation.run import hardware
from clients.loadtest import report
from clients.loadtest.endpoint import Endpoint, prepare_endpoint
from clients.loadtest.measure import Figures, Slo, latency_ratios
from clients.loadtest.replay import replay_on
from clients.loadtest.schedule import Schedule

NAMES = ("memory", "rival")


def bench(
    data: Annotated[Path, typer.Option("--data", help="Directory of question sets.")],
    set_name: Annotated[str, typer.Option("--set", help="Name of the set.")] = "squad-mini",
    rival: Annotated[
        str | None, typer.Option("--rival", help="URL of a second endpoint, e.g. paramem rag.")
    ] = None,
    rate: Annotated[
        float | None, typer.Option("--rate", min=0.001, help="Requests a second, Poisson.")
    ] = None,
    concurrency: Annotated[
        int, typer.Option("--concurrency", min=1, help="In flight, where there is no --rate.")
    ] = 1,
    requests: Annotated[int, typer.Option("--requests", min=1)] = 50,
    warmup: Annotated[int, typer.Option("--warmup", min=0, help="Not counted.")] = 3,
    top_k: Annotated[int, typer.Option("--top-k", min=1)] = 5,
    score_margin: ScoreMargin = None,
    coarse_slots: CoarseSlots = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1)] = 16,
    ignore_eos: Annotated[
        bool, typer.Option("--ignore-eos", help="Every answer takes --max-new-tokens.")
    ] = False,
    slo_ttft_ms: Annotated[float, typer.Option("--slo-ttft-ms", help="Of a good answer.")] = 1000,
    slo_e2e_ms: Annotated[float, typer.Option("--slo-e2e-ms", help="Of a good answer.")] = 5000,
    seed: Annotated[int, typer.Option("--seed", help="Of arrivals and questions.")] = 0,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write everything to this file; - for stdout.")
    ] = None,
    html_file: Annotated[Path | None, typer.Option("--html", help="Write a page.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print as Markdown.")] = False,
    url: Url = None,
) -> None:
    """Load one endpoint, or two one after the other with the same arrivals and questions.

    The set's documents are written first, into a collection of their own that stays.
    """
    for file in (json_file, html_file):
        if file is not None and file != Path("-") and not file.absolute().parent.is_dir():
            raise CommandError(f"there is no directory {file.parent}", exit_code=USAGE)
    questions = load_set(data, set_name)
    schedule = Schedule(requests, warmup, rate, concurrency, seed)
    collection = f"bench-{set_name}"
    options: QueryOptions = {
        "collection": collection,
        "top_k": top_k,
        "max_new_tokens": max_new_tokens,
        "ignore_eos": ignore_eos,
        "score_margin": score_margin,
        "coarse_slots": coarse_slots,
    }
    with open_client(url) as client:
        urls = [client.url, *([rival] if rival else [])]
    endpoints, replayed = [], []
    with progress_bar("starting", 1) as bar:
        for name, where in zip(NAMES, urls, strict=False):
            complain(f"{name}: {where}")
            endpoints.append(_prepare(name, where, questions, collection, bar))
            bar.move_to(0, f"{name}: asking", schedule.warmup + schedule.requests)
            asking = replay_on(where, schedule, questions, options, bar.advance)
            replayed.append(asyncio.run(asking))
    slo = Slo(slo_ttft_ms, slo_e2e_ms)
    test = report.LoadTest(
        facts={
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "set": set_name,
            "load": str(schedule),
            "n": requests,
            "K": top_k,
            "new tokens" if ignore_eos else "new tokens at most": max_new_tokens,
            "SLO": f"TTFT {slo_ttft_ms:g} ms and e2e {slo_e2e_ms:g} ms",
            "model": endpoints[0].engine.model,
            "m": endpoints[0].engine.slots,
            "score margin": endpoints[0].engine.score_margin
            if score_margin is None
            else score_margin,
            "m after the best": coarse_slots or endpoints[0].engine.coarse_slots,
            "dtype": endpoints[0].engine.dtype,
            "device": endpoints[0].engine.device,
            "host": hardware(),
        },
        endpoints=endpoints,
        replayed=replayed,
        figures=[Figures.of(one, slo) for one in replayed],
        ratios=latency_ratios(*replayed) if rival else {},
    )
    if html_file is not None:
        html_file.write_text(report.as_html(test), encoding="utf-8")
    if json_file is not None:
        encoded = json.dumps(report.as_json(test), ensure_ascii=False, indent=1)
        if json_file == Path("-"):
            say(encoded)
            return
        json_file.write_text(encoded + "\n", encoding="utf-8")
    if markdown:
        say(report.as_markdown(test))
        return
    say_columns(*report.rows(test))
    for line in report.ratio_lines(test):
        say(line)


def _prepare(name: str, url: str, questions: QuestionSet, collection: str, bar: Bar) -> Endpoint:
    def show(stage: str, amount: float, total: int) -> None:
        bar.move_to(amount, f"{name}: {stage}", total)

    return prepare_endpoint(name, url, questions.documents, collection, show)
