"""Self-made questions: what the LLM itself asks and answers about a passage it reads as text.

They are the second half of the fit's objective. A memory that only reconstructs its passage may
still break the reader, so the fit also pulls the answers from the memory towards the answers the
same LLM gives from the text (context distillation, Snell et al. 2022; Cartridges, 2025).

Symbols: B = passages, A = answer tokens, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from memory_model.bundle import Bundle
from memory_model.likelihood import target_logits
from memory_model.reader import Reader
from trainer_worker.packing import Block

ASK = "Write one short question about a fact in the text above."
OPENINGS = ("What", "Who", "When", "Which", "Where", "How")
"""First words forced on the model, in turn: small models otherwise repeat the instruction."""
QUESTION_TOKENS, ANSWER_TOKENS = 24, 12


@dataclass(frozen=True, slots=True)
class Question:
    """One question on one passage, with the text-reading LLM's answer and its distribution."""

    suffix: tuple[int, ...]  # prompt tokens after the memory: the question in the template
    answer: tuple[int, ...]  # A greedy answer tokens
    teacher: torch.Tensor  # (A, V) log-probabilities, in the LLM's dtype

    @property
    def block(self) -> Block:
        """As it is read behind a memory."""
        return Block((*self.suffix, *self.answer), len(self.suffix))

    def divergence(self, logits: torch.Tensor) -> torch.Tensor:
        """KL(teacher from text || student from memory), mean over the answer's tokens.

        Args:
            logits: (A, V) float32, the student's.

        Returns: () nats, differentiable in the logits.
        """
        teacher = self.teacher.float()  # (A, V)
        student = logits.log_softmax(dim=-1)
        return (teacher.exp() * (teacher - student)).sum(dim=-1).mean()


class QuestionMaker:
    """Makes questions for batches of passages."""

    def __init__(self, bundle: Bundle, reader: Reader) -> None:
        self._bundle = bundle
        self._reader = reader
        self._tokenizer = bundle.base.tokenizer

    @torch.no_grad()
    def make(self, texts: Sequence[str], count: int) -> list[list[Question]]:
        """``count`` questions per passage, greedy and therefore the same every time."""
        rounds = [self._one_round(texts, OPENINGS[i % len(OPENINGS)]) for i in range(count)]
        return [list(questions) for questions in zip(*rounds, strict=True)]

    def _one_round(self, texts: Sequence[str], opening: str) -> list[Question]:
        opening_ids = self._bundle.base.tokenize(opening)
        asking = [[*self._reader.text_prompt_tokens(ASK, [text]), *opening_ids] for text in texts]
        queries = [
            opening + self._tokenizer.decode(ids, skip_special_tokens=True).split("\n")[0]
            for ids in self._generate(asking, QUESTION_TOKENS)
        ]
        prompts = [
            self._reader.text_prompt_tokens(query, [text])
            for query, text in zip(queries, texts, strict=True)
        ]
        answers = self._generate(prompts, ANSWER_TOKENS)
        teachers = self._teach(prompts, answers)
        return [
            Question(tuple(self._reader.suffix_tokens(query)), tuple(answer), teacher)
            for query, answer, teacher in zip(queries, answers, teachers, strict=True)
        ]

    def _generate(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[list[int]]:
        """Greedy continuations, cut before the end-of-turn token but never empty."""
        lm, pad = self._bundle.read_lm, self._tokenizer.pad_token_id or 0
        ids, mask = self._pad_left(prompts)
        generated = lm.generate(
            input_ids=ids,
            attention_mask=mask.long(),
            do_sample=False,
            max_new_tokens=max_new_tokens,
            pad_token_id=pad,
        )[:, ids.shape[1] :]
        stop = self._tokenizer.eos_token_id
        rows: list[list[int]] = generated.tolist()
        return [row[: max(1, row.index(stop))] if stop in row else row for row in rows]

    def _teach(
        self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
    ) -> list[torch.Tensor]:
        """Teacher's log-probabilities over each answer: B of (A, V)."""
        embedded = [self._reader.embed(prompt) for prompt in prompts]
        logits = target_logits(self._bundle.read_lm, embedded, answers)  # (N, V)
        log_probs = logits.log_softmax(dim=-1).to(self._bundle.base.dtype)
        return list(torch.split(log_probs, [len(answer) for answer in answers]))

    def _pad_left(self, rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns: ids (B, P) and mask (B, P) bool."""
        longest = max(len(row) for row in rows)
        device = self._bundle.base.device
        ids = torch.tensor([[0] * (longest - len(row)) + list(row) for row in rows], device=device)
        lengths = torch.tensor([len(row) for row in rows], device=device)
        mask = torch.arange(longest, device=device) >= longest - lengths[:, None]
        return ids, mask
