"""Splitting documents into passages."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory_model.errors import TextError
from memory_model.passages import PassageSplitter


def characters(text: str) -> list[int]:
    """A tokenizer of one token per character."""
    return [ord(character) for character in text]


def test_a_short_text_is_one_passage_with_its_offsets() -> None:
    [passage] = PassageSplitter(characters, 100).split("  A short text.\n")
    assert (passage.text, passage.start, passage.end) == ("A short text.", 2, 15)
    assert passage.token_ids == tuple(characters("A short text."))


def test_passages_end_where_sentences_end() -> None:
    text = "The mill stands by the river. It grinds oats. Nobody owns it today."
    passages = PassageSplitter(characters, 50).split(text)
    assert [passage.text for passage in passages] == [
        "The mill stands by the river. It grinds oats.",
        "Nobody owns it today.",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "川は北へ流れる。橋は一つしかない。" * 8,
        "Das Haus ist alt. Der Garten auch. " * 8,
        "ا" * 300,
    ],
)
def test_any_language_and_a_text_without_boundaries_is_split(text: str) -> None:
    passages = PassageSplitter(characters, 40).split(text)
    assert len(passages) > 1
    assert all(len(passage.token_ids) <= 40 for passage in passages)


@given(st.text(max_size=400), st.integers(8, 60))
@settings(max_examples=150, deadline=None)
def test_passages_are_bounded_in_order_and_lose_nothing_visible(text: str, limit: int) -> None:
    splitter = PassageSplitter(characters, limit)
    if not text.strip():
        return
    passages = splitter.split(text)
    end = 0
    for passage in passages:
        assert text[passage.start : passage.end] == passage.text
        assert len(passage.token_ids) <= limit
        assert not text[end : passage.start].strip()  # only white space lies between passages
        end = passage.end
    assert not text[end:].strip()


@pytest.mark.parametrize("text", ["", "   \n\t "])
def test_a_text_without_a_visible_character_is_refused(text: str) -> None:
    with pytest.raises(TextError, match="empty"):
        PassageSplitter(characters, 40).split(text)
