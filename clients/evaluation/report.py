"""An evaluation as a table for people, JSON for machines and rows for the lab diary."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from clients.evaluation.bootstrap import Estimate
from clients.evaluation.measure import EvaluationResult, SettingResult

SHARES = ("em", "f1", "contains", "recall_at_1", "recall_at_5")
TIMES = ("ttft_ms_p50", "ttft_ms_p95", "total_ms_p50", "total_ms_p95")
HEADINGS = {
    "em": "EM",
    "f1": "F1",
    "contains": "contains",
    "recall_at_1": "R@1",
    "recall_at_5": "R@5",
    "ttft_ms_p50": "TTFT p50",
    "ttft_ms_p95": "TTFT p95",
    "total_ms_p50": "total p50",
    "total_ms_p95": "total p95",
}
MISSING = "–"


def as_json(result: EvaluationResult) -> dict[str, Any]:
    """Everything, down to the single answers, so that runs can be compared in pairs."""
    return {
        "run": dict(result.facts),
        "settings": {
            str(setting): {
                "n": measured.n,
                "errors": measured.errors,
                **{name: asdict(value) for name, value in measured.metrics.items()},
                "server_ms_mean": dict(measured.server_ms),
            }
            for setting, measured in result.settings.items()
        },
        "store": asdict(result.store),
        "reconstruction": result.reconstruction.as_dict(),
        "answers": [
            {
                "setting": str(setting),
                "question_id": one.question.id,
                "answer": one.answer.answer,
                "documents": one.document_ids,
                **asdict(one.score),
                "ttft_ms": one.ttft_ms,
                "total_ms": one.total_ms,
                "error": one.error,
            }
            for setting, asked in result.asked.items()
            for one in asked
        ],
    }


def as_tables(result: EvaluationResult) -> RenderableType:
    """Two tables that fit 80 columns, then the lines around them."""
    facts = ", ".join(f"{name} {value}" for name, value in result.facts.items())
    quality = _table("answers in %, with 95 % bootstrap intervals", SHARES)
    speed = _table("times in ms, seen by the client", TIMES)
    for setting, measured in result.settings.items():
        shares, times = _cells(measured, stacked=True)
        quality.add_row(str(setting), *shares, str(measured.n))
        speed.add_row(str(setting), *times, str(measured.n - measured.errors))
    lines = (*_failure_lines(result), _store_line(result), _reconstruction_line(result), facts)
    return Group(quality, speed, *(Text(line) for line in lines))


def _failure_lines(result: EvaluationResult) -> list[str]:
    """Questions the server refused count as wrong answers: that must not go unseen."""
    return [
        f"{setting}: {measured.errors} of {measured.n} questions failed, "
        f"the first: {next(one.error for one in result.asked[setting] if one.error)}"
        for setting, measured in result.settings.items()
        if measured.errors
    ]


def _table(title: str, names: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 0, 0, 1))
    table.add_column("setting", no_wrap=True)
    for name in names:
        table.add_column(HEADINGS[name], justify="right", no_wrap=True)
    table.add_column("n", justify="right", no_wrap=True)
    return table


def as_markdown(result: EvaluationResult) -> str:
    """A section's body: the table, then what the numbers were measured on."""
    shares = [f"{HEADINGS[name]} %" for name in SHARES]
    headings = ["setting", *shares, *(f"{HEADINGS[name]} ms" for name in TIMES), "n"]
    rows = [
        [str(setting), *itertools.chain(*_cells(measured, stacked=False)), str(measured.n)]
        for setting, measured in result.settings.items()
    ]
    lines = [
        " | ".join(headings),
        " | ".join(["---", *["--:"] * (len(headings) - 1)]),
        *(" | ".join(row) for row in rows),
    ]
    facts = "; ".join(f"{name}: {value}" for name, value in result.facts.items())
    table = "\n".join(f"| {line} |" for line in lines)
    below = (*_failure_lines(result), _store_line(result), _reconstruction_line(result), facts)
    return "\n\n".join((table, *below))


def _cells(measured: SettingResult, *, stacked: bool) -> tuple[list[str], list[str]]:
    """Of quality and of time."""
    shares = [_cell(measured.metrics.get(name), 100.0, 1, stacked=stacked) for name in SHARES]
    times = [_cell(measured.metrics.get(name), 1.0, 0, stacked=stacked) for name in TIMES]
    return shares, times


def _cell(value: Estimate | None, scale: float, digits: int, *, stacked: bool = False) -> str:
    if value is None:
        return MISSING
    middle, low, high = (f"{scale * x:.{digits}f}" for x in (value.value, value.low, value.high))
    return f"{middle}\n{low}–{high}" if stacked else f"{middle} [{low}–{high}]"


def _store_line(result: EvaluationResult) -> str:
    store = result.store
    written = (
        f"; {store.documents_written} written in {store.write_s:.1f} s "
        f"({store.write_s / store.documents_written:.2f} s each)"
        if store.documents_written
        else "; all were there already"
    )
    failed = f"; {len(store.failures)} failed: {store.failures[0]}" if store.failures else ""
    return (
        f"store: {store.documents} documents, {store.passages} passages, "
        f"{store.bytes_per_document:.0f} bytes a document "
        f"(text: {store.text_bytes_per_document:.0f}), "
        f"{store.bytes_per_passage:.0f} a passage{written}{failed}"
    )


def _reconstruction_line(result: EvaluationResult) -> str:
    measured, rouge = result.reconstruction.likelihood, result.reconstruction.rouge_l
    nats = (
        f"{measured.nats_removed_percent:.1f} % of the nats per token removed "
        f"({measured.nats_per_token_without_memory:.3f} → {measured.nats_per_token:.3f}), "
        f"perplexity {measured.perplexity_without_memory:.2f} → {measured.perplexity:.2f} "
        f"over {measured.passages} passages"
        if measured
        else "likelihood not measured by this writer"
    )
    recited = (
        f"; greedy ROUGE-L {_cell(rouge, 100.0, 1)} % over {rouge.n} documents" if rouge else ""
    )
    return f"reconstruction: {nats}{recited}"
