"""Two runs of ``benchmarks.answers --save`` on the same questions: which one answers better.

    python -m benchmarks.paired before.jsonl after.jsonl

Differences of the same question, so that what is hard for both does not blur them. The rows are
what the LLM read (``memory, bf16`` …), as far as both runs have them.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from benchmarks.command import say
from clients.evaluation.bootstrap import estimate

Scores = dict[tuple[str, int, str], dict[str, dict[str, float]]]
"""By set, K and what was read, by question: ``exact`` and ``f1``."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    arguments = parser.parse_args()
    say("| set | K | the LLM reads | n | EM before | EM after | EM difference | F1 difference |")
    say("|---|--:|---|--:|--:|--:|--:|--:|")
    for row in compare(load(arguments.before), load(arguments.after)):
        say(f"| {' | '.join(row)} |")


def load(file: Path) -> Scores:
    scores: Scores = defaultdict(dict)
    for line in file.read_text(encoding="utf-8").splitlines():
        told = json.loads(line)
        scores[told["set"], told["top_k"], told["reads"]][told["question"]] = told
    return scores


def compare(before: Scores, after: Scores) -> Iterator[tuple[str, ...]]:
    """Cells of each row that both have."""
    for row in sorted(before.keys() & after.keys()):
        old, new = before[row], after[row]
        both = sorted(old.keys() & new.keys())
        exact = [sum(scores[key]["exact"] for key in both) / len(both) for scores in (old, new)]
        differences = [
            estimate([new[key][of] - old[key][of] for key in both]) for of in ("exact", "f1")
        ]
        yield (
            *(*map(str, row), str(len(both))),
            *(f"{share:.3f}" for share in exact),
            *(f"{difference:.3f}" for difference in differences),
        )


if __name__ == "__main__":
    main()
