"""The sentence encoder: unit vectors that put like texts together, however they are batched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from baselines.encoder import SentenceEncoder, family_of, load_encoder
from memory_model.errors import ModelNotFoundError
from paramem.settings import Settings

TEXTS = ["Herons fish at dawn.", "A cat.", "The stock market fell by two per cent on Friday."]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> SentenceEncoder:
    return load_encoder(Settings(home=tmp_path_factory.mktemp("home"), device="cpu"))


@pytest.mark.model
def test_a_query_is_nearest_to_the_passage_about_it(encoder: SentenceEncoder) -> None:
    passages = encoder.passages(TEXTS)
    assert passages.shape == (3, encoder.dim)
    np.testing.assert_allclose(np.linalg.norm(passages, axis=1), 1.0, atol=1e-5)
    for row, query in enumerate(["When do birds hunt?", "kitten", "share prices"]):
        assert int((encoder.queries([query]) @ passages.T).argmax()) == row


@pytest.mark.model
def test_a_batch_gives_what_each_text_alone_would_get(encoder: SentenceEncoder) -> None:
    alone = np.concatenate([encoder.passages([text]) for text in TEXTS])
    np.testing.assert_allclose(encoder.passages(TEXTS), alone, atol=1e-5)


@pytest.mark.model
def test_recorded_queries_get_the_vectors_they_had(tmp_path: Path) -> None:
    encoder = load_encoder(Settings(home=tmp_path, device="cpu"))
    before = encoder.queries(TEXTS)
    encoder.record_queries(4)
    np.testing.assert_allclose(encoder.queries(TEXTS), before, atol=1e-5)


@pytest.mark.model
def test_weights_rounded_for_speed_move_no_vector(encoder: SentenceEncoder, tmp_path: Path) -> None:
    plain = load_encoder(Settings(home=tmp_path, device="cpu", dtype="float32"))
    vectors = plain.passages(TEXTS)
    np.testing.assert_allclose(encoder.passages(TEXTS), vectors, atol=2e-4)


@pytest.mark.parametrize(
    ("name", "pooling", "prefix"),
    [
        ("intfloat/e5-base-v2", "mean", "query: "),
        ("BAAI/bge-small-en-v1.5", "first", "Represent this sentence for searching"),
        ("all-minilm-l6-v2", "mean", ""),
        ("/models/piece5-bgen", "mean", ""),
    ],
)
def test_an_encoder_is_used_as_its_family_was_trained(name: str, pooling: str, prefix: str) -> None:
    family = family_of(name)
    assert family.pooling == pooling
    assert family.query_prefix.startswith(prefix)
    assert bool(family.query_prefix) == bool(prefix)


def test_an_encoder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="nowhere/encoder"):
        load_encoder(Settings(home=tmp_path, cache=tmp_path, rag_encoder="nowhere/encoder"))
