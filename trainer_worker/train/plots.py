"""The losses of a run as a picture."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

LOSSES = (
    "text_answer",
    "answer",
    "quantised_answer",
    "quantisation",
    "teacher",
    "imitation",
    "reconstruction",
    "continuation",
    "selection",
    "retrieval",
    "reranking",
)
SMOOTHING = 0.9


def plot_losses(metrics: Path, picture: Path) -> None:
    """Draw every loss of ``metrics.jsonl`` over the steps, exponentially smoothed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    curves: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for line in metrics.read_text(encoding="utf-8").splitlines():
        values = json.loads(line)
        for name in LOSSES:
            if name in values:
                before = curves[name][-1][1] if curves[name] else values[name]
                smooth = SMOOTHING * before + (1 - SMOOTHING) * values[name]
                curves[name].append((values["step"], smooth))
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlabel="step", ylabel="nats per token (smoothed)")
    for name, points in curves.items():
        axes.plot(*zip(*points, strict=True), label=name)
    axes.legend()
    figure.savefig(picture)
