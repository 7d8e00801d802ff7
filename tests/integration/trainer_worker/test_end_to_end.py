"""Questions that read what the selector gives them, on a tiny random model."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from memory_model.base import load_base
from memory_model.selector import Selector
from trainer_worker.train.dataset import TrainingPassage, TrainingQuestion, TrainingSet
from trainer_worker.train.end_to_end import EndToEndSelection
from trainer_worker.train.selection import TEMPERATURE

PASSAGES = 12
K = 3


@pytest.fixture
def selector(tiny_model: Path, tmp_path: Path) -> Selector:
    torch.manual_seed(0)
    return Selector(load_base(str(tiny_model), cache=tmp_path, device="cpu"), key_dim=32)


@pytest.fixture
def data() -> TrainingSet:
    """Question i repeats passage i; its gold passage is the next one for odd i."""
    random_ = random.Random(0)
    texts = [
        " ".join("".join(random_.choices("abcdefghij", k=4)) for _ in range(8))
        for _ in range(PASSAGES)
    ]
    questions = [
        TrainingQuestion(text, (), (), (number + number % 2) % PASSAGES)
        for number, text in enumerate(texts)
    ]
    return TrainingSet([TrainingPassage(text, (), "") for text in texts], questions, ())


def test_a_question_gets_the_best_of_all_passages(selector: Selector, data: TrainingSet) -> None:
    texts = [passage.text for passage in data.passages]
    with torch.no_grad():
        scores = selector.queries(texts) @ selector.keys(texts).T  # (Q, P)
    selected = EndToEndSelection(selector, data).select(range(PASSAGES), K)
    assert [row.passages for row in selected.rows] == [
        tuple(best) for best in scores.topk(K).indices.tolist()
    ]
    assert torch.equal(selected.weights, torch.ones(PASSAGES, K))


def test_a_question_whose_passage_is_not_among_them_is_to_be_refused(
    selector: Selector, data: TrainingSet
) -> None:
    rows = EndToEndSelection(selector, data).select(range(PASSAGES), K).rows
    found = [data.questions[number].gold in row.passages for number, row in enumerate(rows)]
    assert {True, False} == set(found)
    for number, row in enumerate(rows):
        assert (row.questions, row.absent) == (
            ((number,), ()) if found[number] else ((), (number,))
        )


def test_a_memory_that_helps_is_drawn_nearer(selector: Selector, data: TrainingSet) -> None:
    """Gradient of "the first memory should count more", for a question that found its passage."""
    selection = EndToEndSelection(selector, data)
    rows = selection.select(range(PASSAGES), K).rows
    found = next(number for number, row in enumerate(rows) if row.questions)
    nearest = rows[found].passages[0]
    (-selection.select([found], K).weights[0, 0]).backward()
    before = share(selector, data, found, nearest)
    with torch.no_grad():
        for head in (selector.key_head, selector.query_head):
            assert head.weight.grad is not None
            head.weight -= 0.01 * head.weight.grad / head.weight.grad.norm()
    assert share(selector, data, found, nearest) > before


def test_the_answer_teaches_the_selector_nothing_about_what_it_did_not_find(
    selector: Selector, data: TrainingSet
) -> None:
    selection = EndToEndSelection(selector, data)
    rows = selection.select(range(PASSAGES), K).rows
    missed = next(number for number, row in enumerate(rows) if row.absent)
    weights = selection.select([missed], K).weights
    assert weights.requires_grad
    weights.sum().backward()
    assert selector.key_head.weight.grad is not None
    assert not selector.key_head.weight.grad.any()


def test_fewer_passages_than_asked_for_are_all_given(selector: Selector, data: TrainingSet) -> None:
    few = TrainingSet(data.passages[:2], data.questions[:1], ())
    [row] = EndToEndSelection(selector, few).select([0], 5).rows
    assert set(row.passages) == {0, 1}


def share(selector: Selector, data: TrainingSet, question: int, passage: int) -> float:
    """Of the softmax over all passages, what one of them has."""
    with torch.no_grad():
        query = selector.queries([data.questions[question].text])[0]  # (d,)
        scores = selector.keys([passage.text for passage in data.passages]) @ query  # (P,)
    return float((scores / TEMPERATURE).softmax(dim=0)[passage])
