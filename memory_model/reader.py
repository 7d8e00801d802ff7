"""The reader's prompts: memories and a query as ``inputs_embeds``.

Symbols: K = memories, m = slots, d = code dimension, h = hidden size, T = prompt positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from memory_model.base import BaseModel
from memory_model.expander import Expander
from memory_model.template import PromptBuilder, Template

ABSENT_ANSWER = "not in memory"
"""What a trained reader answers when no memory holds the answer."""


class Reader:
    """Lays out ``[prefix][z_1, …, z_K][suffix(query)]`` for the LLM."""

    def __init__(self, base: BaseModel, expander: Expander, template: Template) -> None:
        self._base = base
        self._expander = expander
        self._builder = PromptBuilder(base.tokenizer, template)

        self.separator_tokens = base.tokenize(template.separator)

    @property
    def prefix_tokens(self) -> list[int]:
        return self._builder.prefix

    def memory_context(self, codes: Sequence[torch.Tensor]) -> torch.Tensor:
        """What precedes the question: the prefix and the memories, set apart like passages.

        Args:
            codes: K of (m_i, d) float32.

        Returns: (C, h) in the LLM's dtype.
        """
        separator = self.embed(self.separator_tokens)
        parts = [self.embed(self._builder.prefix)]
        for number, memory in enumerate(codes):
            parts += [*([separator] if number else []), self.expand(memory)]
        return torch.cat(parts)

    def memory_prompt(self, query: str | None, codes: Sequence[torch.Tensor]) -> torch.Tensor:
        """Prompt that answers ``query`` from memories, or (None) decodes a memory into text.

        Args:
            codes: K of (m_i, d) float32.

        Returns: (T, h) in the LLM's dtype.
        """
        context = self.memory_context(codes)
        if query is None:
            return context
        return torch.cat([context, self.embed(self.suffix_tokens(query))])

    def text_prompt(self, query: str, texts: Sequence[str]) -> torch.Tensor:
        """The same prompt with passages as text; with none, the closed-book prompt. (T, h)"""
        return self.embed(self.text_prompt_tokens(query, texts))

    def text_prompt_tokens(self, query: str, texts: Sequence[str]) -> list[int]:
        """Token ids of :meth:`text_prompt`."""
        prompt = self._builder.prompt(query, with_context=bool(texts))
        context = self._base.tokenize("\n\n".join(texts)) if texts else []
        return [*prompt.prefix, *context, *prompt.suffix]

    def suffix_tokens(self, query: str) -> list[int]:
        """Token ids that follow the memories."""
        return self._builder.prompt(query, with_context=True).suffix

    def expand(self, codes: torch.Tensor) -> torch.Tensor:
        """(…, m, d) float32 -> (…, m, h) in the LLM's dtype."""
        expanded: torch.Tensor = self._expander(codes)
        return expanded.to(self._base.dtype)

    def embed(self, token_ids: Sequence[int]) -> torch.Tensor:
        """(T, h)"""
        return self._base.embed_tokens(torch.tensor(list(token_ids), device=self._base.device))
