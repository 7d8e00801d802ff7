"""Splitting a document into even passages of at most ~160 tokens, on sentence ends.

Sentence and word boundaries are Unicode's (UAX #29), so that any language is split; the
splitting itself is semantic-text-splitter's, measured in the model's own tokens. Even, because a
memory has a fixed number of slots: a document of 164 tokens becomes 82 + 82, not 160 + 4.
"""

from __future__ import annotations

import math
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
        self._max_tokens = max_tokens

    def split(self, text: str) -> list[Passage]:
        """Passages in text order; together they hold all of the text but outer white space.

        Raises:
            TextError: the text has no visible character.
        """
        length = len(self._tokenize(text))
        pieces = max(1, math.ceil(length / self._max_tokens))
        splitter = TextSplitter.from_callback(
            lambda part: len(self._tokenize(part)),
            (max(1, math.ceil(length / pieces)), self._max_tokens),  # full from … to …
        )
        passages = []
        for start, chunk in splitter.chunk_indices(text):
            token_ids = tuple(self._tokenize(chunk))
            if token_ids:
                passages.append(Passage(chunk, start, start + len(chunk), token_ids))
        if not passages:
            raise TextError("the text is empty: nothing to remember")
        return passages
