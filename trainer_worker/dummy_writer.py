"""A writer without a model: memories are hashed bags of words. Deterministic, milliseconds.

Symbols: m = slots per passage, d = code dimension.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from memory_model.hashing import DUMMY_FINGERPRINT, WORD, hash_codes, hash_words
from memory_store.records import CodeFormat, FloatArray, MemorySpec, PassageMemory, Tier
from memory_store.slot_quantiser import SlotQuantiser
from paramem.settings import UNTRAINED_SLOTS, Settings
from trainer_worker.writer import Progress, SourceDocument, WriteError, Written

UNWRITABLE = "[[unwritable]]"
"""A text with this marker is refused, so that refusals can be tried end to end."""

FIT_SCALE = np.float32(2.0)
"""What tells a ``fit`` memory from a ``fast`` one; exact in every code format."""

NATS_PER_TOKEN = {Tier.FAST: 2.0, Tier.FIT: 0.25}


class DummyWriter:
    """Implements ``MemoryWriter``: at most ``passage_words`` words a passage."""

    def __init__(self, spec: MemorySpec, *, passage_words: int) -> None:
        self.spec = spec
        self._passage_words = passage_words

    @classmethod
    def from_settings(cls, settings: Settings) -> DummyWriter:
        spec = MemorySpec(
            fingerprint=DUMMY_FINGERPRINT,
            slots=settings.slots or UNTRAINED_SLOTS,
            z_dim=settings.z_dim,
            code_format=CodeFormat(settings.code_format),
        )
        return cls(spec, passage_words=settings.passage_tokens)

    @property
    def quantiser(self) -> SlotQuantiser | None:
        return None

    def write(
        self, documents: Sequence[SourceDocument], tier: Tier, spec: MemorySpec, progress: Progress
    ) -> list[Written | WriteError]:
        done = [0.0] * len(documents)
        outcomes: list[Written | WriteError] = []
        for position, document in enumerate(documents):
            outcomes.append(self._write_one(document.text, tier, spec.slots))
            done[position] = 1.0
            progress(done, str(tier))
        return outcomes

    def _write_one(self, text: str, tier: Tier, slots: int) -> Written | WriteError:
        if UNWRITABLE in text:
            return WriteError("unwritable", f"the text contains the marker {UNWRITABLE}")
        passages = [
            self._remember(text, start, end, tier, slots)
            for start, end in split_words(text, self._passage_words)
        ]
        if not passages:
            return WriteError("empty_document", "the text contains no words: send some")
        loss = NATS_PER_TOKEN[tier]
        result = {
            "passages": len(passages),
            "tokens": sum(passage.num_tokens for passage in passages),
            "loss": loss,
            "perplexity": math.exp(loss),
            "token_accuracy": math.exp(-loss),
            "steps": 0 if tier is Tier.FAST else 1,
        }
        return Written(passages, result)

    def _remember(self, text: str, start: int, end: int, tier: Tier, slots: int) -> PassageMemory:
        passage = text[start:end]
        codes = hash_codes(passage, slots, self.spec.z_dim)  # (m, d)
        return PassageMemory(
            codes=codes * FIT_SCALE if tier is Tier.FIT else codes,
            key=_unit_key(passage, self.spec.z_dim),
            text_start=start,
            text_end=end,
            num_tokens=len(WORD.findall(passage)),
            stats={"nats_per_token": NATS_PER_TOKEN[tier]},
        )


def split_words(text: str, most: int) -> Iterator[tuple[int, int]]:
    """Spans of at most ``most`` words each, in order; only white space lies between them.

    Nothing for a text without words.
    """
    words = [match.start() for match in WORD.finditer(text)]
    starts = words[::most]
    if not starts:
        return
    starts[0] = len(text) - len(text.lstrip())  # punctuation before the first word belongs to it
    for start, following in zip(starts, [*starts[1:], len(text)], strict=True):
        yield start, start + len(text[start:following].rstrip())


def _unit_key(passage: str, dim: int) -> FloatArray:
    """Returns: (d,) unit norm, also where the signed hashes of the words cancel out."""
    key = hash_words(passage, dim)
    if not key.any():
        key[0] = 1.0
    return key
