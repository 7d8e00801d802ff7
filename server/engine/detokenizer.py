"""Tokens in, text out, a piece at a time and never half a character."""

from __future__ import annotations

from collections.abc import Callable

REPLACEMENT = "\ufffd"  # what a decoder puts where bytes do not (yet) make a character


class Detokenizer:
    """The pieces of all ``push`` calls and of ``flush`` joined are the decoded token list."""

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._tokens: list[int] = []
        # Decoding needs a little context: some tokenizers drop a leading space. So a piece is what
        # tokens[context:] says beyond what tokens[context:emitted] says.
        self._context = 0
        self._emitted = 0

    def push(self, token: int) -> str:
        """Returns: the text that has become certain, often one word, sometimes nothing."""
        self._tokens.append(token)
        piece = self._piece()
        if piece.endswith(REPLACEMENT):
            return ""
        self._context, self._emitted = self._emitted, len(self._tokens)
        return piece

    def flush(self) -> str:
        """Returns: what was held back, with U+FFFD for bytes that never became a character."""
        piece = self._piece()
        self._context = self._emitted = len(self._tokens)
        return piece

    def _piece(self) -> str:
        known = self._decode(self._tokens[self._context : self._emitted])
        return self._decode(self._tokens[self._context :])[len(known) :]
