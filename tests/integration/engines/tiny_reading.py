"""The reading model's interface on the tiny random LLM, with a random linear map as expander."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from memory_model.hashing import hash_words
from memory_model.shared_words import words_of
from server.engine.generator import GenerationChunk, GenerationRequest, Generator

SLOTS, Z_DIM = 4, 8
PREFIX = [3, 17, 5]


class TinyReadingModel:
    """What the engine needs of ``memory_model.runtime.ReadingModel``."""

    name = "tiny"
    fingerprint = "tiny-1"
    slots = SLOTS
    z_dim = Z_DIM
    context_tokens = 512
    selections = ("attention", "cosine")
    coarse_slots = 2
    score_margin = 0.1
    router_weight = 0.5

    def __init__(self, directory: Path, lm: PreTrainedModel | None = None) -> None:
        self.lm = lm or AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(directory)
        self.device, self.dtype = self.lm.device, self.lm.dtype
        self.stop_token_ids = frozenset({int(self.tokenizer.eos_token_id)})
        random = torch.Generator().manual_seed(0)
        hidden = self.lm.config.hidden_size
        self._expand = torch.randn(Z_DIM, hidden, generator=random) * 0.2

    def embed_queries(self, queries: Sequence[str], selection: str) -> np.ndarray:
        return np.stack([hash_words(query, Z_DIM) for query in queries])

    def query_vectors(self, queries: Sequence[str]) -> list[np.ndarray]:
        return [hash_words(query, Z_DIM)[None] for query in queries]

    def query_words(self, query: str) -> dict[int, float]:
        return {int(word): 0.1 for word in words_of(query)}

    def slot_vectors(self, codes: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [code.astype(np.float16) for code in codes]

    def prompt_embeds(
        self, query: str | None, codes: Sequence[np.ndarray], texts: Sequence[str]
    ) -> torch.Tensor:
        memories = [torch.from_numpy(code) @ self._expand for code in codes]
        tokens = self.tokenizer("".join([*texts, query or ">"]), return_tensors="pt").input_ids[0]
        return torch.cat([self.prefix_embeds(), *memories, self.embed_tokens(tokens)])  # (T, h)

    def prefix_embeds(self) -> torch.Tensor:
        return self.embed_tokens(torch.tensor(PREFIX))

    def embed_tokens(self, token_ids: torch.Tensor) -> torch.Tensor:
        return self.lm.get_input_embeddings()(token_ids)

    def decode(self, token_ids: list[int]) -> str:
        return self.tokenizer.decode(token_ids, skip_special_tokens=True)

    def reference(self, request: GenerationRequest) -> tuple[str, int]:
        """What ``lm.generate`` answers greedily to this request alone: (text, tokens)."""
        with torch.inference_mode():
            prompt = self.prompt_embeds(request.query, request.codes, request.texts)
            tokens = self.lm.generate(
                inputs_embeds=prompt[None],
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                max_new_tokens=request.max_new_tokens,
                do_sample=False,
                eos_token_id=sorted(self.stop_token_ids),
                pad_token_id=0,
            )[0].tolist()
        text = self.decode([token for token in tokens if token not in self.stop_token_ids])
        return text, len(tokens)


async def answer(
    engine: Generator, request: GenerationRequest, *, after_s: float = 0.0
) -> tuple[str, GenerationChunk]:
    """The whole text, and the last chunk."""
    await asyncio.sleep(after_s)
    chunks = [chunk async for chunk in engine.generate(request)]
    return "".join(chunk.text for chunk in chunks), chunks[-1]
