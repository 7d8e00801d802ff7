"""Self-made questions are a passage's own, however many are made together."""

from __future__ import annotations

import pytest
import torch

from memory_model.bundle import Bundle
from memory_model.reader import Reader
from trainer_worker.questions import QuestionMaker

WORDS = ["the cat sat", "the dog", "on the mat and the log", "a cat and a dog sat on the log"]


@pytest.fixture
def maker(tiny_bundle: Bundle) -> QuestionMaker:
    reader = Reader(tiny_bundle.base, tiny_bundle.expander, tiny_bundle.config.template)
    return QuestionMaker(tiny_bundle, reader)


@pytest.mark.parametrize("passages", [1, 5])
def test_a_passage_gets_the_questions_it_would_get_alone(
    maker: QuestionMaker, passages: int
) -> None:
    texts = [WORDS[number % len(WORDS)] for number in range(passages)]
    together = maker.make(texts, 3)
    assert [len(questions) for questions in together] == [3] * passages
    for text, questions in zip(texts[-2:], together[-2:], strict=True):
        [alone] = maker.make([text], 3)
        assert [q.suffix for q in questions] == [q.suffix for q in alone]
        assert [q.answer for q in questions] == [q.answer for q in alone]
        for mine, other in zip(questions, alone, strict=True):
            torch.testing.assert_close(mine.teacher, other.teacher, atol=1e-4, rtol=1e-4)


def test_questions_on_a_passage_begin_differently(maker: QuestionMaker) -> None:
    [questions] = maker.make([WORDS[0]], 3)
    assert len({question.suffix for question in questions}) == 3
