"""What the gradient fit adds to the first guess: nats of the passages, and answers from them.

    python -m benchmarks.refinement --data DIR --set squad-dev --passages 32 --steps 30

Passages of one question set, each with all questions that the set asks about it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from benchmarks.command import bundle_parser, say
from benchmarks.offline import OfflineModel
from benchmarks.quality import Asked, exact_match, gold_passages, mean, scores
from memory_model.passages import Passage
from paramem.settings import Settings
from trainer_worker.fit import FitReport, Fitter

BATCH = 8


def main() -> None:
    parser = bundle_parser(__doc__)
    parser.add_argument("--set", dest="set_name", default="squad-dev")
    parser.add_argument("--passages", type=int, default=32)
    parser.add_argument("--steps", type=int, default=30)
    defaults = Settings.model_fields
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
    first = model.compress([passage.token_ids for passage in passages])
    fitter = Fitter(model.bundle, steps=arguments.steps, learning_rate=arguments.learning_rate)
    started = time.monotonic()
    fitted, reports = fit_all(fitter, passages, first)
    seconds = (time.monotonic() - started) / len(passages)
    config, base = model.bundle.config, model.bundle.base
    say(
        f"## Refinement, {arguments.set_name}: {len(passages)} passages, {len(asked)} questions\n\n"
        f"{config.base_model}, {base.dtype} on {base.device}, m = {config.slots}, "
        f"d = {config.z_dim}, at most {arguments.steps} steps of {arguments.learning_rate}, "
        f"{seconds:.1f} s a passage.\n"
    )
    report_nats(reports)
    rows = [chosen[a.passage.text] for a in asked]
    say("| answers from | EM | F1 |\n|---|--:|--:|")
    for name, codes in (("the first guess", first), ("the refined memory", fitted)):
        say(f"| {name} | {answers_from(model, asked, [codes[row] for row in rows])} |")


def fit_all(
    fitter: Fitter, passages: Sequence[Passage], first: Sequence[torch.Tensor]
) -> tuple[list[torch.Tensor], list[FitReport]]:
    """Codes (m, d) and a report of each passage."""
    fitted: list[torch.Tensor] = []
    reports: list[FitReport] = []
    for start in range(0, len(passages), BATCH):
        some = slice(start, start + BATCH)
        codes, told = fitter.fit(passages[some], torch.stack(list(first[some])))
        fitted += list(codes)
        reports += told
    return fitted, reports


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
        f"\nAccepted {mean([float(report.accepted) for report in reports]):.0%}; KL to the answers "
        f"from text on held-out self-made questions "
        f"{mean([report.held_out_kl_first_guess for report in reports]):.3f} before, "
        f"{mean([report.held_out_kl for report in reports]):.3f} after (rejected ones counted).\n"
    )


def answers_from(model: OfflineModel, asked: Sequence[Asked], codes: Sequence[torch.Tensor]) -> str:
    prompts = [
        model.memory_prompt(a.question.question, z) for a, z in zip(asked, codes, strict=True)
    ]
    found = scores(asked, model.answer(prompts))
    f1 = mean([score.f1 for score in found])
    return f"{exact_match(found):.3f} | {f1:.3f}"


if __name__ == "__main__":
    main()
