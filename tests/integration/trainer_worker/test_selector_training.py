"""Training the selector's heads on a tiny random model."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from memory_model.base import load_base
from memory_model.selector import Selector
from trainer_worker.train.config import SelectionTraining
from trainer_worker.train.dataset import TrainingPassage, TrainingQuestion, TrainingSet
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
