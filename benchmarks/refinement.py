"""What the gradient fit adds to the first guess: nats of the passages, and answers from them.

    python -m benchmarks.refinement --data DIR --set squad-dev --passages 32 --slots 64 32 16

Passages of one question set, each with all questions that the set asks about it, read alone, as
they come back from shards, for which they are refined. Each m and format is a table of its own; the
last column compares answers to the same questions.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

import torch

from benchmarks.command import bundle_parser, say
from benchmarks.offline import OfflineModel, batches
from benchmarks.quality import Asked, exact_match, gold_passages, mean, scores
from clients.evaluation.answers import AnswerScore
from clients.evaluation.bootstrap import estimate
from memory_model.passages import Passage
from memory_store.records import CodeFormat
from paramem.settings import Settings
from trainer_worker.fit import FitReport, Fitter
from trainer_worker.model_writer import FIT_PASSAGES_ON_CPU
from trainer_worker.rounding import Rounding, as_stored


def main() -> None:
    parser = bundle_parser(__doc__)
    parser.add_argument("--set", dest="set_name", default="squad-dev")
    parser.add_argument("--passages", type=int, default=32)
    parser.add_argument("--slots", type=int, nargs="+", help="each m; default: the bundle's")
    parser.add_argument("--formats", nargs="+", default=[str(CodeFormat.BF16)])
    defaults = Settings.model_fields
    parser.add_argument("--steps", type=int, default=defaults["fit_steps"].default)
    parser.add_argument(
        "--learning-rate", type=float, default=defaults["fit_learning_rate"].default
    )
    arguments = parser.parse_args()
    model = OfflineModel(arguments.bundle, arguments.model)
    everything = gold_passages(model, arguments.data, arguments.set_name, None, 0)
    passages = list({a.passage.text: a.passage for a in everything}.values())
    passages = passages[:: max(1, len(passages) // arguments.passages)][: arguments.passages]
    chosen = {passage.text: number for number, passage in enumerate(passages)}
    asked = [a for a in everything if a.passage.text in chosen]
    fitter = Fitter(model.bundle, steps=arguments.steps, learning_rate=arguments.learning_rate)
    config, base = model.bundle.config, model.bundle.base
    say(
        f"## Refinement, {arguments.set_name}: {len(passages)} passages, {len(asked)} questions\n\n"
        f"{config.base_model}, {base.dtype} on {base.device}, d = {config.z_dim}, at most "
        f"{arguments.steps} steps of {arguments.learning_rate}."
    )
    rows = [chosen[a.passage.text] for a in asked]
    sizes = arguments.slots or [config.slots]
    for slots, code_format in itertools.product(sizes, map(CodeFormat, arguments.formats)):
        stored = as_stored(code_format, model.bundle.slot_quantiser)
        first = model.compress([passage.token_ids for passage in passages], slots)
        started = time.monotonic()
        fitted, reports = fit_all(fitter, passages, first, stored)
        seconds = (time.monotonic() - started) / len(passages)
        say(f"\n### m = {slots}, {code_format}: {seconds:.1f} s a passage\n")
        report_nats(reports)
        before, after = (
            answers_from(model, asked, [stored(codes[row]) for row in rows])
            for codes in (first, fitted)
        )
        gained = [new.exact - old.exact for old, new in zip(before, after, strict=True)]
        say("| answers from | EM | F1 | EM, less the first guess's |\n|---|--:|--:|--:|")
        say(f"| the first guess | {row_of(before)} | |")
        say(f"| the refined memory | {row_of(after)} | {estimate(gained):.3f} |")


def fit_all(
    fitter: Fitter,
    passages: Sequence[Passage],
    first: Sequence[torch.Tensor],
    stored: Rounding,
) -> tuple[list[torch.Tensor], list[FitReport]]:
    """Codes (m, d) and a report of each passage, fitted in batches of like length."""
    fitted: dict[int, torch.Tensor] = {}
    reports: dict[int, FitReport] = {}
    for some in batches([len(passage.token_ids) for passage in passages], FIT_PASSAGES_ON_CPU):
        codes, told = fitter.fit(
            [passages[number] for number in some],
            torch.stack([first[number] for number in some]),
            as_stored=stored,
        )
        fitted |= dict(zip(some, codes, strict=True))
        reports |= dict(zip(some, told, strict=True))
    numbers = range(len(passages))
    return [fitted[number] for number in numbers], [reports[number] for number in numbers]


def report_nats(reports: Sequence[FitReport]) -> None:
    without = mean([report.nats_without_memory for report in reports])
    say("| the passage after | nats per token | removed |\n|---|--:|--:|")
    say(f"| nothing | {without:.3f} | |")
    for name, values in (
        ("the first guess", [report.nats_first_guess for report in reports]),
        ("the refined memory", [report.nats for report in reports]),
    ):
        say(f"| {name} | {mean(values):.3f} | {100 * (1 - mean(values) / without):.0f} % |")
    say(
        f"\nAfter {mean([float(report.steps) for report in reports]):.1f} steps "
        f"{mean([float(report.accepted) for report in reports]):.0%} accepted; KL to the answers "
        f"from text on held-out self-made questions "
        f"{mean([report.held_out_kl_first_guess for report in reports]):.3f} before, "
        f"{mean([report.held_out_kl for report in reports]):.3f} after (rejected ones counted).\n"
    )


def answers_from(
    model: OfflineModel, asked: Sequence[Asked], codes: Sequence[torch.Tensor]
) -> list[AnswerScore]:
    prompts = [
        model.memory_prompt(a.question.question, z) for a, z in zip(asked, codes, strict=True)
    ]
    return scores(asked, model.answer(prompts))


def row_of(found: Sequence[AnswerScore]) -> str:
    return f"{exact_match(found):.3f} | {mean([score.f1 for score in found]):.3f}"


if __name__ == "__main__":
    main()
