"""Streaming text out of tokens: what is sent is certain, and nothing is lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.engine.detokenizer import REPLACEMENT, Detokenizer


def decode_bytes(tokens: list[int]) -> str:
    """One token a byte, as a byte-level tokenizer falls back to."""
    return bytes(tokens).decode(errors="replace")


def decode_words(tokens: list[int]) -> str:
    """As sentencepiece: the space before the first word of whatever is decoded is dropped."""
    words = ["▁the", "▁cat", "s", "▁sat"]
    return "".join(words[token] for token in tokens).replace("▁", " ").removeprefix(" ")


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_the_pieces_joined_are_the_text(text: str) -> None:
    detokenizer = Detokenizer(decode_bytes)
    pieces = [detokenizer.push(token) for token in text.encode()]
    assert "".join([*pieces, detokenizer.flush()]) == text


@pytest.mark.parametrize("character", ["é", "語", "🙂"])
def test_a_character_is_sent_whole_with_its_last_byte(character: str) -> None:
    detokenizer = Detokenizer(decode_bytes)
    *parts, last = [detokenizer.push(token) for token in character.encode()]
    assert parts == [""] * len(parts)
    assert last == character


def test_an_unfinished_character_comes_out_at_the_end() -> None:
    detokenizer = Detokenizer(decode_bytes)
    assert [detokenizer.push(token) for token in b"a\xe8\xaa"] == ["a", "", ""]
    assert detokenizer.flush() == REPLACEMENT
    assert detokenizer.flush() == ""


def test_spaces_between_pieces_survive_a_tokenizer_that_drops_leading_ones() -> None:
    detokenizer = Detokenizer(decode_words)
    assert [detokenizer.push(token) for token in (0, 1, 2, 3)] == ["the", " cat", "s", " sat"]
