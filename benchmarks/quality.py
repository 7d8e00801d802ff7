"""What a bundle's memories are good for, question by question, with the gold passage given.

    python -m benchmarks.quality --data DIR --set squad-dev --limit 300

- codes: answers from memories of other sizes and formats (elastic m, int8, int4), beside the same
  passages as text and nothing at all
- kinds: exact answers among numbers, names and the rest
- damage: what a memory that has nothing to do with a question does to a closed-book answer
- confusion: whether a memory tells another passage of the same set better than that one's own

Selection plays no part here; ``paramem eval`` measures the service end to end.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.command import bundle_parser, say
from benchmarks.offline import OfflineModel
from clients.evaluation.answers import AnswerScore, score_answer
from clients.evaluation.bootstrap import Estimate, estimate
from clients.evaluation.data import Question, load_set
from memory_model.bundle import TEXT_ADAPTER
from memory_model.passages import Passage
from memory_store.records import CodeFormat
from memory_store.shards.codec import HEADER_DTYPES, layout
from memory_store.slot_quantiser import SlotQuantiser
from trainer_worker.rounding import Rounding, as_stored

CONFUSION_PASSAGES = 24


@dataclass(frozen=True, slots=True)
class Asked:
    """A question and the passage that answers it."""

    question: Question
    passage: Passage


def main() -> None:
    parser = bundle_parser(__doc__)
    parser.add_argument("--set", dest="set_name", default="squad-dev")
    parser.add_argument("--limit", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--slots", type=int, nargs="*", default=[32, 48, 96], help="besides m")
    arguments = parser.parse_args()
    memory = OfflineModel(arguments.bundle, arguments.model)
    asked = gold_passages(
        memory, arguments.data, arguments.set_name, arguments.limit, arguments.seed
    )
    config = memory.bundle.config
    say(
        f"## Quality, {arguments.set_name}: {len(asked)} questions (seed {arguments.seed}), gold "
        f"passage given\n\n{config.base_model}, {memory.bundle.base.dtype} on "
        f"{memory.bundle.base.device}, m = {config.slots}, d = {config.z_dim}, greedy.\n"
    )
    text = OfflineModel(arguments.bundle, arguments.model, TEXT_ADAPTER)
    from_text = text.answer(
        [text.reader.text_prompt(a.question.question, [a.passage.text]) for a in asked]
    )
    closed = text.answer([text.closed_prompt(a.question.question) for a in asked])
    del text
    codes = memory.compress([a.passage.token_ids for a in asked])
    from_memory = report_codes(memory, asked, codes, from_text, closed, arguments.slots)
    report_kinds(asked, {"text": from_text, "memory": from_memory})
    report_damage(memory, asked, codes)
    report_confusion(memory, asked, codes)


def gold_passages(
    model: OfflineModel, data: Path, set_name: str, limit: int | None, seed: int
) -> list[Asked]:
    """Sampled questions of one document, each with the passage that holds an answer."""
    questions = load_set(data, set_name)
    texts = {document.id: document.text for document in questions.documents}
    asked = []
    for question in questions.sample(limit, seed):
        passages = [p for id in question.doc_ids for p in model.splitter.split(texts[id])]
        holding = [p for p in passages if any(a in p.text for a in question.answers)]
        if holding:
            asked.append(Asked(question, holding[0]))
    return asked


def report_codes(
    model: OfflineModel,
    asked: Sequence[Asked],
    codes: Sequence[torch.Tensor],
    from_text: Sequence[str],
    closed: Sequence[str],
    other_slots: Sequence[int],
) -> list[str]:
    """The table of sizes and formats. Returns: the answers from bf16 memories."""
    say("| the LLM reads | bytes a passage | EM | F1 | EM / text's |\n|---|--:|--:|--:|--:|")
    text_em = mean([score.exact for score in scores(asked, from_text)])

    def row(name: str, size: float, answers: Sequence[str]) -> None:
        found = scores(asked, answers)
        exact = exact_match(found)
        say(
            f"| {name} | {size:,.0f} | {exact:.3f} "
            f"| {mean([score.f1 for score in found]):.3f} | {exact.value / (text_em or 1):.2f} |"
        )

    row("the passage as text", mean([len(a.passage.text.encode()) for a in asked]), from_text)
    row("nothing", 0, closed)
    config = model.bundle.config
    quantiser = model.bundle.slot_quantiser
    formats = {
        code_format: from_codes(model, asked, codes, as_stored(code_format, quantiser))
        for code_format in model.code_formats
    }
    for code_format, answers in formats.items():
        size = bytes_stored(code_format, config.slots, config.z_dim, quantiser)
        row(f"memory, m = {config.slots}, {code_format}", size, answers)
    for slots in other_slots:
        others = model.compress([a.passage.token_ids for a in asked], slots)
        elastic = from_codes(model, asked, others, as_stored(CodeFormat.BF16, None))
        size = bytes_stored(CodeFormat.BF16, slots, config.z_dim, None)
        row(f"memory, m = {slots}, bf16", size, elastic)
    say("")
    return formats[CodeFormat.BF16]


def bytes_stored(
    code_format: CodeFormat, slots: int, z_dim: int, quantiser: SlotQuantiser | None
) -> int:
    """Of one passage, its key included."""
    slot_bytes = quantiser.slot_bytes if quantiser is not None else 0
    tensors = layout(code_format, 1, slots, z_dim, slot_bytes=slot_bytes)
    return sum(
        HEADER_DTYPES[dtype].itemsize * math.prod(shape) for dtype, shape in tensors.values()
    )


def from_codes(
    model: OfflineModel, asked: Sequence[Asked], codes: Sequence[torch.Tensor], rounding: Rounding
) -> list[str]:
    return model.answer(
        [
            model.memory_prompt(a.question.question, rounding(z))
            for a, z in zip(asked, codes, strict=True)
        ]
    )


def report_kinds(asked: Sequence[Asked], answers: dict[str, Sequence[str]]) -> None:
    """Exact answers by the kind of the first accepted answer."""
    say("| exact answers | " + " | ".join(answers) + " | n |\n|---|" + "--:|" * (len(answers) + 1))
    for kind in ("number", "name", "other"):
        members = [i for i, a in enumerate(asked) if answer_kind(a.question.answers[0]) == kind]
        cells = [
            f"{mean([scores(asked, given)[i].exact for i in members]):.3f}"
            for given in answers.values()
        ]
        say(f"| {kind} | " + " | ".join(cells) + f" | {len(members)} |")
    say("")


def answer_kind(answer: str) -> str:
    if any(character.isdigit() for character in answer):
        return "number"
    return "name" if any(character.isupper() for character in answer) else "other"


def report_damage(
    model: OfflineModel, asked: Sequence[Asked], codes: Sequence[torch.Tensor]
) -> None:
    """Nats of the right answer with nothing, with a wrong memory and with the right one."""
    base = model.bundle.base
    targets = [base.tokenize(a.question.answers[0]) for a in asked]
    wrong = wrong_memories(asked, codes)
    prompts = {
        "nothing": [model.closed_prompt(a.question.question) for a in asked],
        "a memory of another document": [
            model.memory_prompt(a.question.question, z) for a, z in zip(asked, wrong, strict=True)
        ],
        "the right memory": [
            model.memory_prompt(a.question.question, z) for a, z in zip(asked, codes, strict=True)
        ],
    }
    say("| before the question | nats per token of the right answer |\n|---|--:|")
    for name, some in prompts.items():
        say(f"| {name} | {mean(model.nats(some, targets)):.3f} |")
    say("")


def wrong_memories(asked: Sequence[Asked], codes: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """For every question the memory of a document that is not its own."""
    random_ = random.Random(0)
    wrong = []
    for a in asked:
        others = [i for i, b in enumerate(asked) if b.question.doc_ids != a.question.doc_ids]
        wrong.append(codes[random_.choice(others)])
    return wrong


def report_confusion(
    model: OfflineModel, asked: Sequence[Asked], codes: Sequence[torch.Tensor]
) -> None:
    """Likelihood of every passage under every memory, on distinct passages."""
    distinct = {a.passage.text: i for i, a in enumerate(asked)}
    chosen = list(distinct.values())[:CONFUSION_PASSAGES]
    targets = [asked[i].passage.token_ids for i in chosen]
    prefix = model.reader.embed(model.reader.prefix_tokens)
    without = model.nats([prefix] * len(chosen), targets)
    pairs = [(i, target) for i in chosen for target in targets]
    nats = model.nats(
        [model.memory_prompt(None, codes[i]) for i, _ in pairs], [target for _, target in pairs]
    )
    table = np.array(nats).reshape(len(chosen), len(chosen))  # (memory, passage)
    own = table.diagonal()
    other = table[~np.eye(len(chosen), dtype=bool)]
    removed = 100 * (1 - own.mean() / np.mean(without))
    confused = int((table.argmin(axis=0) != np.arange(len(chosen))).sum())
    say(
        f"Confusion, {len(chosen)} passages: {np.mean(without):.2f} nats per token without "
        f"memory, {own.mean():.2f} with its own ({removed:.0f} % removed), {other.mean():.2f} with "
        f"another's (least {other.min():.2f}); {confused} passages are told better by another's "
        "memory."
    )


def scores(asked: Sequence[Asked], answers: Sequence[str]) -> list[AnswerScore]:
    return [
        score_answer(given, a.question.answers) for a, given in zip(asked, answers, strict=True)
    ]


def exact_match(found: Sequence[AnswerScore]) -> Estimate:
    """Share of exact answers. Exits if there is none to count."""
    exact = estimate([score.exact for score in found])
    if exact is None:
        raise SystemExit("no question has a passage that holds its answer")
    return exact


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")


if __name__ == "__main__":
    main()
