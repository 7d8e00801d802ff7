"""A load test as a table, as JSON, and as one HTML page with its picture inside."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from clients.evaluation.bootstrap import Estimate
from clients.loadtest.endpoint import Endpoint
from clients.loadtest.measure import Figures, throughput_ratio
from clients.loadtest.replay import Replayed

LATENCIES = {"ttft": "TTFT", "itl": "ITL", "e2e": "e2e"}


@dataclass(frozen=True, slots=True)
class LoadTest:
    """Everything one run found."""

    facts: Mapping[str, Any]  # what a published number must carry
    endpoints: Sequence[Endpoint]
    replayed: Sequence[Replayed]  # of each endpoint
    figures: Sequence[Figures]
    ratios: Mapping[str, Estimate]  # of the second to the first; empty with one


def as_json(test: LoadTest) -> dict[str, Any]:
    return {
        "run": dict(test.facts),
        "endpoints": [
            {
                **asdict(endpoint) | {"engine": endpoint.engine.model_dump()},
                "figures": asdict(figures),
                "samples": [asdict(sample) for sample in replayed.samples],
                "seconds": replayed.seconds,
            }
            for endpoint, figures, replayed in zip(
                test.endpoints, test.figures, test.replayed, strict=True
            )
        ],
        "ratios": {name: asdict(value) for name, value in test.ratios.items()},
    }


def rows(test: LoadTest) -> tuple[list[str], list[list[str]]]:
    """Headings and one row a figure, one column an endpoint."""
    headings = ["", *(endpoint.name for endpoint in test.endpoints)]
    names = list(_column(test.endpoints[0], test.figures[0]))
    columns = [
        _column(endpoint, figures)
        for endpoint, figures in zip(test.endpoints, test.figures, strict=True)
    ]
    return headings, [[name, *(column.get(name, "–") for column in columns)] for name in names]


def ratio_lines(test: LoadTest) -> list[str]:
    if len(test.endpoints) < 2:
        return []
    ours, theirs = (endpoint.name for endpoint in test.endpoints[:2])
    throughput = throughput_ratio(*test.figures[:2])
    told = [f"{LATENCIES[name]} {value:.2f}" for name, value in test.ratios.items()]
    return [
        f"{theirs} / {ours}: " + ", ".join(told),
        f"throughput {ours} / {theirs}: {throughput:.2f}",
    ]


def as_markdown(test: LoadTest) -> str:
    headings, body = rows(test)
    table = [headings, ["---", *("--:" for _ in headings[1:])], *body]
    lines = ["| " + " | ".join(cells) + " |" for cells in table]
    return "\n".join([_told(test.facts), "", *lines, "", *ratio_lines(test)])


def as_html(test: LoadTest) -> str:
    """One file that needs nothing else."""
    headings, body = rows(test)
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in headings)
    table = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in body
    )
    ratios = "".join(f"<p>{html.escape(line)}</p>" for line in ratio_lines(test))
    return (
        "<!doctype html><meta charset='utf-8'><title>paramem bench</title>"
        "<style>body{font:15px sans-serif;margin:2em;max-width:60em}"
        "td,th{padding:.2em 1em;text-align:right}td:first-child{text-align:left}</style>"
        f"<h1>paramem bench</h1><p>{html.escape(_told(test.facts))}</p>"
        f"<table><tr>{head}</tr>{table}</table>{ratios}"
        f"<img src='data:image/png;base64,{_picture(test)}' alt='latencies' width='100%'>"
    )


def _column(endpoint: Endpoint, figures: Figures) -> dict[str, str]:
    cells = {
        f"{LATENCIES[name]} p{q} ms": f"{value:.0f}"
        for name, found in figures.latency_ms.items()
        for q, value in found.items()
    }
    cells |= {
        "requests/s": f"{figures.requests_per_s:.2f}",
        "tokens/s": f"{figures.tokens_per_s:.1f}",
        "goodput requests/s": f"{figures.goodput_per_s:.2f}",
        "requests": str(figures.requests),
        "errors": ", ".join(f"{n} x {code}" for code, n in figures.errors.items()) or "0",
        "prompt positions": f"{figures.prompt_positions:.0f}",
        "completion tokens": f"{figures.completion_tokens:.1f}",
        "passages": str(endpoint.passages),
        "shard bytes a passage": f"{endpoint.row_bytes:,.0f}",
        "store bytes a passage": f"{sum(endpoint.store_bytes.values()) / endpoint.passages:,.0f}",
    }
    if endpoint.documents_per_s is not None:
        cells["documents/s written"] = f"{endpoint.documents_per_s:.1f}"
    if endpoint.resident_bytes is not None:
        cells["server RSS MB"] = f"{endpoint.resident_bytes / 1e6:.0f}"
    return cells | {
        f"server {stage} ms": f"{value:.1f}" for stage, value in figures.server_ms.items()
    }


def _told(facts: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in facts.items())


def _picture(test: LoadTest) -> str:
    """Cumulative TTFT and e2e of each endpoint, as base64 PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, name in ((left, "ttft_ms"), (right, "e2e_ms")):
        for endpoint, replayed in zip(test.endpoints, test.replayed, strict=True):
            times = sorted(getattr(s, name) for s in replayed.samples if s.error is None)
            shares = [(number + 1) / len(times) for number in range(len(times))]
            axes.step(times, shares, where="post", label=endpoint.name)
        axes.set_xlabel(f"{LATENCIES[name.removesuffix('_ms')]} (ms)")
        axes.legend()
    left.set_ylabel("share of requests")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return base64.b64encode(buffer.getvalue()).decode()
