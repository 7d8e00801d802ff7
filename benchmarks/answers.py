"""Answers from a full corpus: from memories, from the same passages as text, from nothing.

    python -m benchmarks.answers --data DIR --sets squad-dev nq-dev --limit 200 --top-k 1 5

The text rows are read by the rival: the same LLM, tuned on the same questions to read passages.
The service answers the same questions over HTTP with ``paramem eval``; this asks many at once.

Symbols: K = passages given, m = slots, d = code dimension.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.command import bundle_parser, say
from benchmarks.offline import OfflineModel
from benchmarks.quality import bytes_stored, exact_match, mean
from benchmarks.ranking import (
    CANDIDATES,
    Ranking,
    embed_keys,
    rank_bm25,
    rank_by_attention,
    rank_by_keys,
    rank_fused,
)
from clients.evaluation.answers import AnswerScore, score_answer
from clients.evaluation.data import EvalDocument, Question, load_set
from clients.evaluation.retrieval import recall_at
from memory_model.bundle import TEXT_ADAPTER
from memory_model.coarsening import coarsen
from memory_model.passages import Passage
from memory_store.records import CodeFormat
from server.selection import near_the_best
from trainer_worker.rounding import as_stored


@dataclass(frozen=True, slots=True)
class Corpus:
    """A question set, its documents split into passages."""

    passages: Sequence[Passage]
    owners: Sequence[str]  # document of each passage
    questions: Sequence[Question]

    def recall(self, ranking: Ranking) -> float:
        k = ranking.shape[1]
        recalls = [
            recall_at(k, [self.owners[row] for row in rows], question.doc_ids)
            for rows, question in zip(ranking, self.questions, strict=True)
        ]
        return mean([recall for recall in recalls if recall is not None])


@dataclass(frozen=True, slots=True)
class Row:
    """What one way of reading came to."""

    reads: str
    num_bytes: float  # a passage
    recall: float | None  # at K
    answers: Sequence[str]

    def scores(self, corpus: Corpus) -> list[AnswerScore]:
        return [
            score_answer(given, question.answers)
            for given, question in zip(self.answers, corpus.questions, strict=True)
        ]

    def cells(self, corpus: Corpus, against: float) -> str:
        """Of the table; ``against``: exact match that the ratio is to."""
        scores = self.scores(corpus)
        exact = exact_match(scores)
        recall = "–" if self.recall is None else f"{self.recall:.3f}"
        ratio = f"{exact.value / against:.2f}" if against else "–"
        return (
            f"{self.reads} | {self.num_bytes:,.0f} | {recall} "
            f"| {exact:.3f} "
            f"| {mean([score.f1 for score in scores]):.3f} | {ratio}"
        )


def main() -> None:
    parser = bundle_parser(__doc__)
    parser.add_argument("--sets", nargs="+", default=["squad-dev"])
    parser.add_argument("--limit", type=int, help="questions of each set; default all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--top-k", type=int, nargs="+", default=[5])
    parser.add_argument("--slots", type=int, help="m; default the bundle's")
    parser.add_argument(
        "--coarse-slots", type=int, help="of memories after the best; default as the service"
    )
    parser.add_argument(
        "--score-margin", type=float, help="of memories that are read; default as the service"
    )
    parser.add_argument(
        "--selection", choices=["router", "attention", "hybrid"], help="default: as the service"
    )
    parser.add_argument(
        "--formats", nargs="+", type=CodeFormat, default=[CodeFormat.BF16], choices=list(CodeFormat)
    )
    parser.add_argument("--save", type=Path, help="answers as JSON Lines, for benchmarks.paired")
    arguments = parser.parse_args()
    memory = OfflineModel(arguments.bundle, arguments.model)
    text = OfflineModel(arguments.bundle, arguments.model, TEXT_ADAPTER)
    slots = arguments.slots or memory.bundle.config.slots
    coarse_slots = arguments.coarse_slots or memory.bundle.config.coarse_slots or slots
    margin = arguments.score_margin
    if margin is None:
        margin = memory.bundle.config.score_margin
    selection = arguments.selection or memory.selection
    base, z_dim = memory.bundle.base, memory.bundle.config.z_dim
    for model in (memory, text):
        model.pack()  # as a server answers
    say(
        f"selected by {selection}, score margin {margin}, m = {slots}, after the best "
        f"{coarse_slots}, d = {z_dim}, {base.dtype} on {base.device}, greedy\n"
    )
    say("| set | documents | n | K | the LLM reads | bytes a passage | R@K | EM | F1 | EM / text |")
    say("|---|--:|--:|--:|---|--:|--:|--:|--:|--:|")
    for name in arguments.sets:
        found = load_set(arguments.data, name)
        questions = found.sample(arguments.limit, arguments.seed)
        corpus = split_corpus(memory, found.documents, questions)
        most = max(arguments.top_k)
        ranking, read = rank(memory, corpus, selection, most, margin)
        codes = compress_read(memory, corpus, passages_read(ranking, read), slots)
        for k in arguments.top_k:
            selected = ranking[:, :k], [min(number, k) for number in read]
            shape = slots, coarse_slots
            rows = answer(memory, text, corpus, selected, codes, shape, arguments.formats)
            report(name, corpus, k, rows)
            if arguments.save is not None:
                save(arguments.save, name, corpus, k, rows)


def split_corpus(
    model: OfflineModel, documents: Sequence[EvalDocument], questions: Sequence[Question]
) -> Corpus:
    split = [
        (document.id, p) for document in documents for p in model.splitter.split(document.text)
    ]
    return Corpus([passage for _, passage in split], [owner for owner, _ in split], questions)


def rank(
    model: OfflineModel, corpus: Corpus, selection: str, k: int, margin: float | None
) -> tuple[Ranking, Sequence[int]]:
    """Passages of each question, selected as the service does it.

    ``margin``: of the scores of those that are read after ``attention``; None = all.

    Returns: the ranking (Q, k), and how many each question reads.
    """
    asked = [question.question for question in corpus.questions]
    texts = [passage.text for passage in corpus.passages]
    keys = embed_keys(model, texts)
    if selection == "hybrid":
        routed = rank_by_keys(model, keys, asked, CANDIDATES)
        return rank_fused([routed, rank_bm25(texts, asked, CANDIDATES)], k), [k] * len(asked)
    if selection == "attention":
        codes = model.compress([passage.token_ids for passage in corpus.passages])
        ranking, scores = rank_by_attention(model, keys, codes, texts, asked, k)
        return ranking, [near_the_best(row, margin) for row in scores.tolist()]
    return rank_by_keys(model, keys, asked, k), [k] * len(asked)


def answer(
    memory: OfflineModel,
    text: OfflineModel,
    corpus: Corpus,
    selection: tuple[Ranking, Sequence[int]],
    codes: dict[int, torch.Tensor],
    shape: tuple[int, int],
    formats: Sequence[CodeFormat],
) -> list[Row]:
    """The rows of one set, all selected passages as text first.

    Args:
        selection: the ranking, and how many of each row of it are read as memories.
        codes: (m, d) of every passage that is read as a memory.
        shape: slots of the best memory, and of each of the others.
    """
    (selected, read), (slots, coarse_slots) = selection, shape
    asked = [question.question for question in corpus.questions]
    texts = [passage.text for passage in corpus.passages]
    lexical = rank_bm25(texts, asked, selected.shape[1])
    rankings = {"the same passages as text": selected, "BM25's": lexical}
    text_bytes = sum(len(passage.encode()) for passage in texts) / len(texts)
    rows = [
        Row(reads, text_bytes, corpus.recall(ranking), read_texts(text, corpus, ranking.tolist()))
        for reads, ranking in rankings.items()
    ]
    near = passages_read(selected, read)
    if min(read) < selected.shape[1]:
        some = read_texts(text, corpus, near)
        recall = corpus.recall(selected)  # of what was selected, as in the rows of memories
        rows.append(Row("as text those that are read as memories", text_bytes, recall, some))
    rows.append(Row("nothing", 0, None, text.answer([text.closed_prompt(q) for q in asked])))
    quantiser = memory.bundle.slot_quantiser
    for code_format in formats:
        rounding = as_stored(code_format, quantiser)
        stored = {number: rounding(codes[number]) for number in set().union(*near)}
        memories = [[stored[number] for number in numbers] for numbers in near]
        prompts = [
            memory.memory_prompt(question, *coarsen(codes_read, coarse_slots))
            for question, codes_read in zip(asked, memories, strict=True)
        ]
        size = bytes_stored(code_format, slots, memory.bundle.config.z_dim, quantiser)
        answers = memory.answer(prompts)
        rows.append(Row(f"memory, {code_format}", size, corpus.recall(selected), answers))
    return rows


def report(name: str, corpus: Corpus, k: int, rows: Sequence[Row]) -> None:
    """Print the rows; ratios are to the first."""
    documents = len(set(corpus.owners))
    against = mean([score.exact for score in rows[0].scores(corpus)])
    for row in rows:
        asked = len(corpus.questions)
        say(f"| {name} | {documents} | {asked} | {k} | {row.cells(corpus, against)} |")


def save(file: Path, name: str, corpus: Corpus, k: int, rows: Sequence[Row]) -> None:
    """Append a line for each answer."""
    with file.open("a", encoding="utf-8") as lines:
        for row in rows:
            for question, given, score in zip(
                corpus.questions, row.answers, row.scores(corpus), strict=True
            ):
                asked = {"set": name, "top_k": k, "reads": row.reads, "question": question.id}
                told = {"answer": given, "exact": score.exact, "f1": score.f1}
                lines.write(json.dumps(asked | told) + "\n")


def passages_read(ranking: Ranking, read: Sequence[int]) -> list[list[int]]:
    """Those of each question: the first ``read`` of its row."""
    return [row[:number] for row, number in zip(ranking.tolist(), read, strict=True)]


def compress_read(
    model: OfflineModel, corpus: Corpus, reading: Sequence[Sequence[int]], slots: int
) -> dict[int, torch.Tensor]:
    """Codes (m, d) of every passage that some question reads."""
    numbers = sorted(set().union(*reading))
    codes = model.compress([corpus.passages[number].token_ids for number in numbers], slots)
    return dict(zip(numbers, codes, strict=True))


def read_texts(model: OfflineModel, corpus: Corpus, reading: Sequence[Sequence[int]]) -> list[str]:
    """Answers from the passages of each question as text."""
    prompts = [
        model.reader.text_prompt(q.question, [corpus.passages[number].text for number in numbers])
        for q, numbers in zip(corpus.questions, reading, strict=True)
    ]
    return model.answer(prompts)


if __name__ == "__main__":
    main()
