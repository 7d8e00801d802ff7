"""``paramem eval``: quality, size and speed of a running server on a question set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from clients.cli.console import complain, err, out, progress_bar, say
from clients.cli.failures import USAGE, CommandError
from clients.cli.options import CoarseSlots, ScoreMargin, Url, open_client
from clients.evaluation import report
from clients.evaluation.data import load_set
from clients.evaluation.plan import Plan, Setting
from clients.evaluation.run import run_evaluation
from clients.results import CodeFormat


def evaluate(
    data: Annotated[Path, typer.Option("--data", help="Directory of question sets.")],
    set_name: Annotated[str, typer.Option("--set", help="Name of the set.")],
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Ask only this many, drawn by --seed.")
    ] = None,
    settings: Annotated[
        str,
        typer.Option("--settings", help="Any of memory, memory-oracle, text, text-oracle, closed."),
    ] = "memory,memory-oracle,text,text-oracle,closed",
    mode: Annotated[
        Literal["fast", "fit", "auto"], typer.Option("--mode", help="How documents are written.")
    ] = "auto",
    collection: Annotated[
        str | None,
        typer.Option("--collection", show_default="one of its own, reused by later runs"),
    ] = None,
    slots: Annotated[int | None, typer.Option("--slots", min=1, help="m of its memories.")] = None,
    code_format: Annotated[CodeFormat | None, typer.Option("--code-format")] = None,
    concurrency: Annotated[int, typer.Option("--concurrency", min=1)] = 1,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1)] = 24,
    top_k: Annotated[int, typer.Option("--top-k", min=1)] = 5,
    selection: Annotated[
        str | None, typer.Option("--selection", show_default="the server's")
    ] = None,
    score_margin: ScoreMargin = None,
    coarse_slots: CoarseSlots = None,
    reconstruct: Annotated[
        int, typer.Option("--reconstruct", min=0, help="Documents to recite for ROUGE-L.")
    ] = 8,
    seed: Annotated[int, typer.Option("--seed", help="Of the sample of --limit.")] = 0,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write everything to this file; - for stdout.")
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the table as Markdown.")
    ] = False,
    url: Url = None,
) -> None:
    """Measure a running server: answers, retrieval, reconstruction, bytes and times.

    The set's documents are written into a collection of their own and stay there.
    """
    plan = Plan(
        set_name=set_name,
        settings=parse_settings(settings),
        mode=mode,
        collection=collection,
        slots=slots,
        code_format=code_format,
        limit=limit,
        seed=seed,
        concurrency=concurrency,
        top_k=top_k,
        selection=selection,
        score_margin=score_margin,
        coarse_slots=coarse_slots,
        max_new_tokens=max_new_tokens,
        reconstruct=reconstruct,
    )
    questions = load_set(data, set_name)
    to_stdout = json_file == Path("-")
    if json_file is not None and not to_stdout and not json_file.absolute().parent.is_dir():
        raise CommandError(f"--json: there is no directory {json_file.parent}", exit_code=USAGE)
    with open_client(url) as client, progress_bar("starting", 1) as bar:
        stage_before = ""

        def show(stage: str, amount: float, total: int) -> None:
            nonlocal stage_before
            if stage != stage_before and not err.is_terminal:
                complain(f"{stage} …")
            stage_before = stage
            bar.move_to(amount, stage, total)

        result = run_evaluation(client, questions, plan, show)

    if json_file is not None:
        encoded = json.dumps(report.as_json(result), ensure_ascii=False, indent=1)
        if to_stdout:
            say(encoded)
            return
        json_file.write_text(encoded + "\n", encoding="utf-8")
    if markdown:
        say(report.as_markdown(result))
    else:
        out.print(report.as_tables(result))


def parse_settings(names: str) -> tuple[Setting, ...]:
    known = {setting.value for setting in Setting}
    chosen = list(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    for name in chosen:
        if name not in known:
            raise CommandError(
                f"--settings: unknown setting {name!r}; known: {', '.join(sorted(known))}",
                exit_code=USAGE,
            )
    if not chosen:
        raise CommandError("--settings is empty", exit_code=USAGE)
    return tuple(Setting(name) for name in chosen)
