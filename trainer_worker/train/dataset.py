"""Questions on passages, tokenised once and sampled as rows of K passages.

A row holds K passages and questions on any of them: every passage is a distractor for the
others' questions, and one pass over the passages serves all questions (see ``packing``).
"""

from __future__ import annotations

import gzip
import json
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from memory_model.base import BaseModel
from memory_model.errors import TextError
from memory_model.passages import PassageSplitter
from memory_model.reader import ABSENT_ANSWER
from memory_model.template import PromptBuilder, Template
from trainer_worker.train.errors import TrainingError


@dataclass(frozen=True, slots=True)
class TrainingPassage:
    text: str
    token_ids: tuple[int, ...]
    topic: str  # documents of one topic (article) are each other's hard distractors
    next: int | None = None  # passage that follows in the document


@dataclass(frozen=True, slots=True)
class TrainingQuestion:
    text: str
    prompt_ids: tuple[int, ...]  # what follows the memories: template and question
    answer_ids: tuple[int, ...]  # ends with the end-of-turn token
    gold: int  # passage that holds the answer


@dataclass(frozen=True, slots=True)
class Row:
    """K passages and the questions asked of them together."""

    passages: tuple[int, ...]
    questions: tuple[int, ...]
    absent: tuple[int, ...]  # questions that no passage of the row answers


class TrainingSet:
    """The tokenised passages and questions of one or more data sets."""

    def __init__(
        self,
        passages: Sequence[TrainingPassage],
        questions: Sequence[TrainingQuestion],
        absent_answer_ids: tuple[int, ...],
    ) -> None:
        self.passages = passages
        self.questions = questions
        self.absent_answer_ids = absent_answer_ids
        self._asked: dict[int, list[int]] = defaultdict(list)
        for number, question in enumerate(questions):
            self._asked[question.gold].append(number)
        self._anchors = sorted(self._asked)
        self._topics: dict[str, list[int]] = defaultdict(list)
        for number in self._anchors:
            self._topics[passages[number].topic].append(number)

    def token_information(self, vocabulary: int) -> torch.Tensor:
        """-log of every token's frequency in the passages, unseen ones counted half. (V,)"""
        ids = torch.tensor([token for passage in self.passages for token in passage.token_ids])
        counts = torch.bincount(ids, minlength=vocabulary).double().clamp(min=0.5)
        return -(counts / counts.sum()).log().float()

    def sample(
        self,
        random_: random.Random,
        *,
        passages: int,
        questions: int,
        absent_share: float,
        best_first: float = 0.0,
    ) -> Row:
        """A random row.

        Args:
            passages: K; half of the distractors come from the anchor's own topic.
            questions: at most so many, on any of the passages.
            absent_share: probability that one question more is asked that the row cannot answer.
            best_first: probability that all others are on the first passage.
        """
        anchor = random_.choice(self._anchors)
        siblings = self._topics[self.passages[anchor].topic]
        chosen = [anchor]
        while len(chosen) < min(passages, len(self._anchors)):
            pool = siblings if random_.random() < 0.5 and len(siblings) > passages else None
            other = random_.choice(pool or self._anchors)
            if other not in chosen:
                chosen.append(other)
        asked_of = chosen
        if best_first and random_.random() < best_first:
            asked_of = [anchor]
        else:
            random_.shuffle(chosen)
        asked = [number for passage in asked_of for number in self._asked[passage]]
        asked = random_.sample(asked, min(questions, len(asked)))
        absent = []
        if random_.random() < absent_share and len(siblings) > passages:
            other = random_.choice(siblings)
            if other not in chosen:
                absent.append(random_.choice(self._asked[other]))
        return Row(tuple(chosen), tuple(asked), tuple(absent))


def load_training_set(
    data: Path,
    names: Sequence[str],
    base: BaseModel,
    template: Template,
    passage_tokens: int,
    max_documents: int | None = None,
) -> TrainingSet:
    """Read ``<name>.docs.jsonl[.gz]`` and ``<name>.qa.jsonl[.gz]`` of each data set.

    Questions with several gold documents, or whose answer stands in no passage letter for
    letter, are left out.

    Raises:
        TrainingError: a file is missing or has no usable question.
    """
    builder = PromptBuilder(base.tokenizer, template)
    splitter = PassageSplitter(base.tokenize, passage_tokens)
    end = base.tokenizer.eos_token_id
    passages: list[TrainingPassage] = []
    questions: list[TrainingQuestion] = []
    for name in names:
        found: dict[str, list[int]] = {}
        for number, document in enumerate(_lines(data, f"{name}.docs")):
            if max_documents is not None and number >= max_documents:
                break
            try:
                split = splitter.split(document["text"])
            except TextError:
                continue
            numbers = list(range(len(passages), len(passages) + len(split)))
            found[document["id"]] = numbers
            topic = document.get("title", "")
            passages += [
                TrainingPassage(passage.text, passage.token_ids, topic, following)
                for passage, following in zip(split, [*numbers[1:], None], strict=True)
            ]
        for item in _lines(data, f"{name}.qa"):
            if len(item["doc_ids"]) != 1:
                continue
            answer = item["answers"][0]
            gold = [n for n in found.get(item["doc_ids"][0], []) if answer in passages[n].text]
            if not gold:
                continue
            prompt = builder.prompt(item["question"], with_context=True)
            questions.append(
                TrainingQuestion(
                    text=item["question"],
                    prompt_ids=tuple(prompt.suffix),
                    answer_ids=(*base.tokenize(answer), end),
                    gold=gold[0],
                )
            )
    if not questions:
        raise TrainingError(f"{', '.join(names)} in {data} hold no question with its passage")
    return TrainingSet(passages, questions, (*base.tokenize(ABSENT_ANSWER), end))


def _lines(data: Path, stem: str) -> Iterator[dict[str, Any]]:
    packed, plain = data / f"{stem}.jsonl.gz", data / f"{stem}.jsonl"
    if packed.is_file():
        with gzip.open(packed, "rt", encoding="utf-8") as handle:
            yield from map(json.loads, handle)
    elif plain.is_file():
        with plain.open(encoding="utf-8") as handle:
            yield from map(json.loads, handle)
    else:
        raise TrainingError(f"no {packed.name} or {plain.name} in {data}; set --data")
