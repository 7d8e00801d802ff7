"""Splitting a document into passages of at most ~160 tokens, on sentence ends.

Sentence and word boundaries are Unicode's (UAX #29), so that any language is split; the
splitting itself is semantic-text-splitter's, measured in the model's own tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from semantic_text_splitter import TextSplitter

from memory_model.errors import TextError


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a document: ``text == document[start:end]`` (character offsets)."""

    text: str
    start: int
    end: int
    token_ids: tuple[int, ...]  # L of them


class PassageSplitter:
    """Splits texts for one tokenizer."""

    def __init__(self, tokenize: Callable[[str], list[int]], max_tokens: int) -> None:
        self._tokenize = tokenize
        self._splitter = TextSplitter.from_callback(lambda text: len(tokenize(text)), max_tokens)

    def split(self, text: str) -> list[Passage]:
        """Passages in text order; together they hold all of the text but outer white space.

        Raises:
            TextError: the text has no visible character.
        """
        passages = []
        for start, chunk in self._splitter.chunk_indices(text):
            token_ids = tuple(self._tokenize(chunk))
            if token_ids:
                passages.append(Passage(chunk, start, start + len(chunk), token_ids))
        if not passages:
            raise TextError("the text is empty: nothing to remember")
        return passages
