"""The model writer on a tiny random model: documents in, memories out."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from memory_model.bundle import Bundle
from memory_store.records import Tier
from paramem.settings import Settings
from trainer_worker.model_writer import ModelWriter
from trainer_worker.writer import SourceDocument, WriteError, Written

LONG = SourceDocument("long", "The cat sat on the mat. The dog sat on the log. " * 4)
SHORT = SourceDocument("short", "A frog.")


@pytest.fixture
def writer(tiny_bundle: Bundle, tmp_path: Path) -> ModelWriter:
    settings = Settings(home=tmp_path, slots=4, z_dim=32, passage_tokens=64, fit_steps=2)
    return ModelWriter(tiny_bundle, settings)


def written(outcome: Written | WriteError) -> Written:
    assert isinstance(outcome, Written)
    return outcome


@pytest.mark.parametrize("tier", [Tier.FAST, Tier.FIT])
def test_every_passage_of_every_document_gets_a_memory(writer: ModelWriter, tier: Tier) -> None:
    long, short = [written(item) for item in writer.write([LONG, SHORT], tier, lambda *_: None)]
    assert len(long.passages) > 1
    assert len(short.passages) == 1
    for document, result in ((LONG, long), (SHORT, short)):
        spans = [document.text[item.text_start : item.text_end] for item in result.passages]
        assert "".join(spans).replace(" ", "") == document.text.replace(" ", "")
        for item in result.passages:
            assert item.codes.shape == (4, 32)
            assert item.codes.dtype == np.float32
            assert np.linalg.norm(item.key) == pytest.approx(1.0, abs=1e-5)
            assert item.stats["nats_per_token_without_memory"] > 0
        assert result.result["passages"] == len(result.passages)
        assert result.result["perplexity"] == pytest.approx(np.exp(result.result["loss"]))


def test_refinement_keeps_the_index_key(writer: ModelWriter) -> None:
    fast = written(writer.write([SHORT], Tier.FAST, lambda *_: None)[0]).passages[0]
    fit = written(writer.write([SHORT], Tier.FIT, lambda *_: None)[0]).passages[0]
    np.testing.assert_allclose(fit.key, fast.key, atol=1e-6)
    assert np.abs(fit.codes - fast.codes).max() > 0


def test_an_empty_document_fails_alone(writer: ModelWriter) -> None:
    outcomes = writer.write([SourceDocument("e", " \n "), SHORT], Tier.FAST, lambda *_: None)
    assert isinstance(outcomes[0], WriteError)
    assert outcomes[0].code == "empty_text"
    assert isinstance(outcomes[1], Written)


def test_progress_grows_to_one_for_every_document(writer: ModelWriter) -> None:
    seen: list[list[float]] = []
    writer.write([LONG, SHORT], Tier.FIT, lambda shares, _stage: seen.append(list(shares)))
    for earlier, later in itertools.pairwise(seen):
        assert all(a <= b + 1e-9 for a, b in zip(earlier, later, strict=True))
    assert seen[-1] == pytest.approx([1.0, 1.0])
