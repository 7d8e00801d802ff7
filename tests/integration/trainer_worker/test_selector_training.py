"""Training the selector's heads and the re-ranker on a tiny random model."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from memory_model.base import load_base
from memory_model.selector import Selector
from trainer_worker.train.config import RerankTraining, SelectionTraining, Stage, TrainConfig
from trainer_worker.train.dataset import TrainingPassage, TrainingQuestion, TrainingSet
from trainer_worker.train.networks import build_networks
from trainer_worker.train.reranking import hard_negatives, train_reranker
from trainer_worker.train.selection import read_features, train_selector, whiten

PASSAGES = 40
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@pytest.fixture
def selector(tiny_model: Path, tmp_path: Path) -> Selector:
    return Selector(load_base(str(tiny_model), cache=tmp_path, device="cpu"), key_dim=32)


@pytest.fixture
def data() -> TrainingSet:
    """Passages of random words; a question asks with three words of one of them."""
    random_ = random.Random(0)
    texts = [
        ["".join(random_.choices(LETTERS, k=3)) for _ in range(8 + number % 5)]
        for number in range(PASSAGES)
    ]
    questions = [
        TrainingQuestion(" ".join(random_.sample(words, 3)).upper(), (), (), number)
        for number, words in enumerate(texts)
        for _ in range(4)
    ]
    return TrainingSet([TrainingPassage(" ".join(w), (), "") for w in texts], questions, ())


def test_training_ranks_more_questions_with_their_own_passage(
    selector: Selector, data: TrainingSet
) -> None:
    config = SelectionTraining(epochs=10, batch_questions=16, learning_rate=0.003)
    epochs = list(train_selector(selector, data, config))
    assert len(epochs) == 10
    assert float(epochs[-1]["selection"]) < 0.8 * float(epochs[0]["selection"])
    assert float(epochs[-1]["selected_first"]) > float(epochs[0]["selected_first"])


def test_reranking_training_finds_the_passage_among_the_routers_best(
    tiny_model: Path, tmp_path: Path, data: TrainingSet
) -> None:
    config = TrainConfig(
        model=str(tiny_model),
        datasets=["toy-train"],
        slots=12,
        z_dim=64,
        layers=1,
        stages=[Stage(name="text", context="text", steps=1, learning_rate=0.1)],
    )
    base = load_base(str(tiny_model), cache=tmp_path, device="cpu")
    networks = build_networks(config, base)
    asked = [question for question in data.questions for _ in range(10)]
    passages = [
        replace(passage, token_ids=tuple(base.tokenize(passage.text))) for passage in data.passages
    ]
    training = RerankTraining(passages=PASSAGES, questions=1600, negatives=7, learning_rate=0.003)
    told = list(train_reranker(networks, TrainingSet(passages, asked, ()), training))
    assert len(told) == 2
    assert float(told[-1]["reranking"]) < 0.9 * float(told[0]["reranking"])


def test_hard_negatives_are_the_routers_best_without_the_right_one() -> None:
    scores = torch.tensor([0.9, 0.1, 0.8, 0.7, 0.6, 0.5])
    gold, *others = hard_negatives(scores, 2, 1, random.Random(0))
    assert gold == 2
    assert set(others) <= {0, 3, 4, 5}
    assert len(others) == 1


def test_features_do_not_depend_on_the_order_they_are_read_in(
    selector: Selector, data: TrainingSet
) -> None:
    texts = [passage.text for passage in data.passages]
    with torch.no_grad():
        expected = torch.cat([selector.features([text]) for text in texts])
    torch.testing.assert_close(read_features(selector, texts), expected)


def test_whitening_evens_out_directions_and_centres_both_sides(selector: Selector) -> None:
    generator = torch.Generator().manual_seed(0)
    scales = torch.logspace(0, 1, selector.key_head.in_features)
    passages = torch.randn(4000, len(scales), generator=generator) * scales + 5.0
    questions = torch.randn(4000, len(scales), generator=generator) * scales - 3.0
    whiten(selector, passages, questions)
    with torch.no_grad():
        keys, queries = selector.key_head(passages), selector.query_head(questions)
    torch.testing.assert_close(keys.mean(dim=0), torch.zeros(32), atol=1e-3, rtol=0.0)
    torch.testing.assert_close(queries.mean(dim=0), torch.zeros(32), atol=1e-3, rtol=0.0)
    assert functional.cosine_similarity(keys[:-1], keys[1:]).abs().mean() < 0.25
    spread = keys.std(dim=0)
    assert spread.max() / spread.min() < 1.5  # 10 before
