"""A document as passages, or why it cannot be written: alike for every writer that reads tokens."""

from __future__ import annotations

from memory_model.errors import TextError
from memory_model.passages import Passage, PassageSplitter
from trainer_worker.writer import WriteError

MAX_PASSAGES = 4096
"""Per document. The HTTP surface bounds documents in bytes; this bounds them in work."""


def split_document(splitter: PassageSplitter, text: str) -> list[Passage] | WriteError:
    """Passages in text order."""
    try:
        passages = splitter.split(text)
    except TextError as error:
        return WriteError("empty_text", str(error))
    if len(passages) > MAX_PASSAGES:
        return WriteError(
            "text_too_long",
            f"the text makes {len(passages)} passages, more than {MAX_PASSAGES}; split it",
        )
    return passages
