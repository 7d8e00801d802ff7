"""The prompt around the memories: ``[prefix][z_1 … z_K][suffix(query)]``.

The memories stand inside the user's turn of the model's own chat template, where an instruct
model expects its reading matter (measured against memories before the whole template in
experiments/LOG.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel as Schema
from pydantic import ConfigDict

CONTEXT_MARK = "\u241e"  # SYMBOL FOR RECORD SEPARATOR: stands where the memories go
SENTENCE_ENDS = ".?!…:;\u3002\uff1f\uff01\u061f\u06d4\u0964\u055e"
"""Of several scripts: CJK full stop, question and exclamation mark, Arabic question mark and full
stop, danda, Armenian question mark."""


def as_sentence(query: str) -> str:
    """The query as the questions of training are written: a capital first, a mark at the end.

    Of one typed in haste a reader does not see that it is over: it recites the memory instead of
    answering (EM on Natural Questions 0.35 -> 0.51, experiments/LOG.md).
    """
    query = query.strip()
    if query and query[-1] not in SENTENCE_ENDS:
        query += "?"
    return query[:1].upper() + query[1:]


class Template(Schema):
    """Wording of the prompt; part of the bundle, because memories are fitted to it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    system: str = "Answer the question with a few words."
    question: str = "{query}"
    separator: str = "\n\n"  # between the memories and the question


@dataclass(frozen=True, slots=True)
class PromptTokens:
    """Token ids on either side of the memories."""

    prefix: list[int]
    suffix: list[int]


class PromptBuilder:
    """Renders a :class:`Template` with one tokenizer."""

    def __init__(self, tokenizer: Any, template: Template) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self.prefix = self._tokenize(self._render("")[0])

    def prompt(self, query: str, *, with_context: bool) -> PromptTokens:
        """Tokens before and after the context; without one the separator goes too."""
        _, suffix = self._render(query)
        if not with_context:
            suffix = suffix.removeprefix(self._template.separator)
        return PromptTokens(self.prefix, self._tokenize(suffix))

    def _render(self, query: str) -> tuple[str, str]:
        question = self._template.question.replace("{query}", as_sentence(query))
        content = CONTEXT_MARK + self._template.separator + question
        if self._tokenizer.chat_template is None:  # a base model: plain completion
            rendered = f"{self._tokenizer.bos_token or ''}{content}\nAnswer:"
        else:
            messages = [
                {"role": "system", "content": self._template.system},
                {"role": "user", "content": content},
            ]
            rendered = self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
        prefix, _, suffix = rendered.partition(CONTEXT_MARK)
        return prefix, suffix

    def _tokenize(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids
