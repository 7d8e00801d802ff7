"""The rival's writer: passages in, one vector each out. No slots, nothing to refine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from transformers import AutoTokenizer

from baselines.encoder import SentenceEncoder, load_encoder
from baselines.rag_engine import chunk_spec
from memory_model.library import pull
from memory_model.passages import Passage, PassageSplitter
from memory_store.records import FloatArray, MemorySpec, PassageMemory, Tier
from memory_store.slot_quantiser import SlotQuantiser
from paramem.settings import Settings
from trainer_worker.splitting import split_document
from trainer_worker.writer import Progress, SourceDocument, WriteError, Written


class RagWriter:
    """Implements ``MemoryWriter``. Documents are split as the house splits them."""

    def __init__(self, encoder: SentenceEncoder, splitter: PassageSplitter) -> None:
        self._encoder = encoder
        self._splitter = splitter
        self.spec = chunk_spec(encoder)

    @classmethod
    def load(cls, settings: Settings) -> RagWriter:
        """Load the encoder and the LLM's tokenizer.

        Raises:
            ModelError: one of them cannot be had.
        """
        tokenizer = AutoTokenizer.from_pretrained(pull(settings.model, settings.cache))

        def tokenize(text: str) -> list[int]:
            ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
            return ids

        encoder = load_encoder(settings)
        return cls(encoder, PassageSplitter(tokenize, settings.passage_tokens))

    @property
    def quantiser(self) -> SlotQuantiser | None:
        return None

    def write(
        self, documents: Sequence[SourceDocument], tier: Tier, spec: MemorySpec, progress: Progress
    ) -> list[Written | WriteError]:
        """See :class:`MemoryWriter`; passages of all documents are encoded together."""
        split = [split_document(self._splitter, document.text) for document in documents]
        kept = [passages for passages in split if not isinstance(passages, WriteError)]
        texts = [passage.text for passages in kept for passage in passages]
        vectors = iter(self._encoder.passages(texts))
        outcomes: list[Written | WriteError] = []
        for passages in split:
            if isinstance(passages, WriteError):
                outcomes.append(passages)
            else:
                chunks = [self._chunk(passage, next(vectors), spec.slots) for passage in passages]
                tokens = sum(chunk.num_tokens for chunk in chunks)
                outcomes.append(Written(chunks, {"passages": len(chunks), "tokens": tokens}))
        progress([1.0] * len(documents), str(tier))
        return outcomes

    def _chunk(self, passage: Passage, vector: FloatArray, slots: int) -> PassageMemory:
        return PassageMemory(
            codes=np.empty((slots, self.spec.z_dim), np.float32),
            key=vector,
            text_start=passage.start,
            text_end=passage.end,
            num_tokens=len(passage.token_ids),
        )
