"""The dummy writer: memories that a query sharing words selects."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory_model.hashing import WORD, hash_codes, hash_words
from memory_store.records import CodeFormat, MemorySpec, Tier
from trainer_worker.dummy_writer import FIT_SCALE, UNWRITABLE, DummyWriter, split_words
from trainer_worker.writer import SourceDocument, WriteError, Written

SPEC = MemorySpec("dummy-1", slots=4, z_dim=32, code_format=CodeFormat.BF16)
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)


def write(
    *texts: str, tier: Tier = Tier.FAST, passage_words: int = 5
) -> Sequence[Written | WriteError]:
    documents = [SourceDocument(str(number), text) for number, text in enumerate(texts)]
    return DummyWriter(SPEC, passage_words=passage_words).write(
        documents, tier, SPEC, lambda _fractions, _stage: None
    )


def written(text: str, tier: Tier = Tier.FAST) -> Written:
    (outcome,) = write(text, tier=tier)
    assert isinstance(outcome, Written)
    return outcome


@given(WORDS, st.integers(1, 7))
def test_passages_cover_the_text_in_order_with_only_white_space_between(
    text: str, most: int
) -> None:
    spans = list(split_words(text, most))
    assert bool(spans) == bool(WORD.search(text))
    position = 0
    for start, end in spans:
        passage = text[start:end]
        assert text[position:start].strip() == ""
        assert passage == passage.strip()
        assert 1 <= len(WORD.findall(passage)) <= most
        position = end
    if spans:
        assert text[position:].strip() == ""


def test_a_query_finds_the_passage_that_shares_its_words() -> None:
    passages = written("Ada built looms in Leeds. Otters sleep holding hands together.").passages
    query = hash_words("where do otters sleep", SPEC.z_dim)
    scores = [float(passage.key @ query) for passage in passages]
    assert len(scores) == 2
    assert scores[1] > scores[0]


@given(WORDS)
def test_keys_have_unit_norm_whatever_the_words(text: str) -> None:
    for outcome in write(text):
        if isinstance(outcome, Written):
            for passage in outcome.passages:
                assert np.linalg.norm(passage.key) == pytest.approx(1, abs=1e-5)


def test_a_fit_memory_is_the_fast_one_scaled_with_better_numbers() -> None:
    text = "seven words of text about nothing much"
    fast, fit = written(text), written(text, Tier.FIT)
    np.testing.assert_array_equal(
        fast.passages[0].codes, hash_codes("seven words of text about", 4, 32)
    )
    for before, after in zip(fast.passages, fit.passages, strict=True):
        np.testing.assert_array_equal(after.codes, before.codes * FIT_SCALE)
        np.testing.assert_array_equal(after.key, before.key)
    assert fit.result["loss"] < fast.result["loss"]
    assert fit.result["token_accuracy"] > fast.result["token_accuracy"]
    assert fast.result["passages"] == len(fast.passages) == 2
    assert fast.result["tokens"] == 7


def test_a_refused_document_leaves_its_neighbours_alone() -> None:
    first, second, third, fourth = write("good words", f"bad {UNWRITABLE}", "?!", "more words")
    assert isinstance(first, Written)
    assert isinstance(second, WriteError)
    assert second.code == "unwritable"
    assert isinstance(third, WriteError)
    assert third.code == "empty_document"
    assert isinstance(fourth, Written)


def test_progress_counts_the_documents_done() -> None:
    seen: list[list[float]] = []
    DummyWriter(SPEC, passage_words=5).write(
        [SourceDocument("a", "one"), SourceDocument("b", "two")],
        Tier.FAST,
        SPEC,
        lambda fractions, _stage: seen.append(list(fractions)),
    )
    assert seen == [[1.0, 0.0], [1.0, 1.0]]
