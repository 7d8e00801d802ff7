"""Exact answers against bytes: which ways of keeping a passage no other beats in both.

    python -m benchmarks.pareto --data DIR --set squad-dev --limit 200 --slots 16 32 48 64

The gold passage is given, so selection plays no part. A memory counts its codes and its key; text
counts itself, compressed, and the rival's vector (RAG), or the keys and values of its tokens, which
answer as the text does (KV caching). What a store adds to them all: ``benchmarks.storage``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from baselines.encoder import load_encoder
from benchmarks.command import bundle_parser, say
from benchmarks.offline import OfflineModel
from benchmarks.quality import (
    Asked,
    bytes_stored,
    exact_match,
    from_codes,
    gold_passages,
    mean,
    scores,
)
from benchmarks.storage import cached_bytes
from clients.evaluation.bootstrap import Estimate
from memory_model.bundle import TEXT_ADAPTER
from memory_store.catalogue.documents import compress
from memory_store.records import CodeFormat
from paramem.settings import load_settings
from trainer_worker.rounding import as_stored


@dataclass(frozen=True, slots=True)
class Point:
    """One way of keeping a passage."""

    name: str
    num_bytes: float  # a passage
    exact: Estimate


def main() -> None:
    parser = bundle_parser(__doc__)
    parser.add_argument("--set", dest="set_name", default="squad-dev")
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--slots", type=int, nargs="+", help="m; default the bundle's")
    parser.add_argument("--plot", type=Path, help="picture to write")
    arguments = parser.parse_args()
    model = OfflineModel(arguments.bundle, arguments.model)
    asked = gold_passages(
        model, arguments.data, arguments.set_name, arguments.limit, arguments.seed
    )
    base, config = model.bundle.base, model.bundle.config
    say(
        f"## Answers against bytes, {arguments.set_name}: {len(asked)} questions (seed "
        f"{arguments.seed}), gold passage given\n\n{config.base_model}, {base.dtype} on "
        f"{base.device}, d = {config.z_dim}, greedy.\n"
    )
    points = memory_points(model, asked, arguments.slots or [config.slots])
    points += text_points(OfflineModel(arguments.bundle, arguments.model, TEXT_ADAPTER), asked)
    best = frontier(points)
    say("| kept as | bytes a passage | EM | beaten in neither |\n|---|--:|--:|---|")
    for point in sorted(points, key=lambda point: point.num_bytes):
        mark = "yes" if point in best else ""
        say(f"| {point.name} | {point.num_bytes:,.0f} | {point.exact:.3f} | {mark} |")
    if arguments.plot:
        draw(points, best, arguments.plot)


def memory_points(
    model: OfflineModel, asked: Sequence[Asked], all_slots: Sequence[int]
) -> list[Point]:
    """Every m in every code format."""
    points = []
    quantiser = model.bundle.slot_quantiser
    for slots in all_slots:
        codes = model.compress([a.passage.token_ids for a in asked], slots)
        for code_format in model.code_formats:
            answers = from_codes(model, asked, codes, as_stored(code_format, quantiser))
            size = bytes_stored(code_format, slots, model.bundle.config.z_dim, quantiser)
            found = exact_match(scores(asked, answers))
            points.append(Point(f"memory, m = {slots}, {code_format}", size, found))
    return points


def text_points(model: OfflineModel, asked: Sequence[Asked]) -> list[Point]:
    """The passage as text beside a vector, and as a KV cache."""
    settings = load_settings()
    encoder = load_encoder(settings)
    answers = model.answer(
        [model.reader.text_prompt(a.question.question, [a.passage.text]) for a in asked]
    )
    found = exact_match(scores(asked, answers))
    text = mean([len(compress(a.passage.text)) for a in asked])
    tokens = mean([len(a.passage.token_ids) for a in asked])
    vector = bytes_stored(CodeFormat.BF16, 0, encoder.dim, None)
    return [
        Point("text and vector (RAG)", text + vector, found),
        Point("KV cache, bf16", cached_bytes(model.bundle.base.lm.config, tokens), found),
    ]


def frontier(points: Sequence[Point]) -> list[Point]:
    """Those that no other beats: at least as small and as exact, and better in one of the two."""

    def beats(other: Point, point: Point) -> bool:
        no_worse = other.num_bytes <= point.num_bytes and other.exact.value >= point.exact.value
        return no_worse and (other.num_bytes, other.exact.value) != (
            point.num_bytes,
            point.exact.value,
        )

    return [point for point in points if not any(beats(other, point) for other in points)]


def draw(points: Sequence[Point], best: Sequence[Point], picture: Path) -> None:
    """Bytes across, exact answers up, with intervals; the frontier as a line."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xscale="log", xlabel="bytes a passage", ylabel="exact answers")
    for point in points:
        value = point.exact
        below, above = value.value - value.low, value.high - value.value
        axes.errorbar(point.num_bytes, value.value, yerr=[[below], [above]], fmt="o", capsize=3)
        axes.annotate(point.name, (point.num_bytes, value.value), fontsize=7)
    line = sorted(best, key=lambda point: point.num_bytes)
    axes.plot([p.num_bytes for p in line], [p.exact.value for p in line], color="grey")
    figure.savefig(picture)


if __name__ == "__main__":
    main()
