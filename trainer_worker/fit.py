"""Gradient refinement: z_i = argmax log P(D_i | z_i), many documents at once.

Objective per passage, in nats per token:

    -log P(D | z) / L  +  w · KL( LLM reading the text || LLM reading z )  on self-made questions

Adam runs in an orthonormal basis of the expander's image: a step of the optimiser then moves the
LLM's input equally far in every direction. (In raw code coordinates the whitened directions of
small variance hardly move: 24 % of the no-memory nats removed after 50 steps against 35 %,
see experiments/LOG.md.) The result is a code again, exactly.

A refined memory is accepted only if it beats the first guess on the objective and does not lose
on questions that the fit never saw.

Symbols: B = passages, m = slots, d = code dimension, h = hidden size, L = tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from memory_model.bundle import Bundle
from memory_model.likelihood import nats_per_token, target_logits, token_accuracy
from memory_model.passages import Passage
from memory_model.reader import Reader
from trainer_worker.questions import Question, QuestionMaker, divergence

TRAIN_QUESTIONS, HELD_OUT_QUESTIONS = 1, 2
DISTILLATION_WEIGHT = 0.3
BETAS = (0.9, 0.95)
PATIENCE_STEPS = 12
MIN_GAIN_NATS = 2e-3
"""A passage stops when its objective gained less than this over ``PATIENCE_STEPS`` steps."""
HELD_OUT_TOLERANCE_NATS = 0.1


@dataclass(frozen=True, slots=True)
class FitReport:
    """What became of one passage. All losses in nats per token of the passage."""

    nats_without_memory: float
    nats_first_guess: float
    nats: float
    token_accuracy: float
    steps: int
    held_out_kl_first_guess: float
    held_out_kl: float
    accepted: bool


class Fitter:
    """Refines batches of codes for one bundle."""

    def __init__(self, bundle: Bundle, *, steps: int, learning_rate: float) -> None:
        self._bundle = bundle
        self._lm = bundle.read_lm
        self._reader = Reader(bundle.base, bundle.expander, bundle.config.template)
        self._questions = QuestionMaker(bundle, self._reader)
        self._prefix = self._reader.embed(self._reader.prefix_tokens)  # (P, h)
        self._steps = steps
        self._learning_rate = learning_rate
        # W = Q R: expanding z0 + R^-1 δ moves the LLM's input by Q δ, an isometry in δ
        weight = bundle.expander.linear.weight.double()  # (h, d)
        self._to_code = torch.linalg.inv(torch.linalg.qr(weight).R).T.float()  # (d, d)

    def fit(
        self,
        passages: Sequence[Passage],
        first_guess: torch.Tensor,
        progress: Callable[[float], None] = lambda _share: None,
    ) -> tuple[torch.Tensor, list[FitReport]]:
        """Refine the memories of B passages.

        Args:
            first_guess: (B, m, d) float32.
            progress: called with the share of steps done; what it raises ends the fit.

        Returns: codes (B, m, d) and a report per passage. A rejected memory is its first guess.
        """
        targets = [passage.token_ids for passage in passages]
        made = self._questions.make(
            [passage.text for passage in passages], TRAIN_QUESTIONS + HELD_OUT_QUESTIONS
        )
        train = [questions[:TRAIN_QUESTIONS] for questions in made]
        held_out = [questions[TRAIN_QUESTIONS:] for questions in made]
        codes, steps = self._descend(first_guess, targets, train, progress)
        return self._judge(first_guess, codes, steps, targets, held_out)

    @torch.no_grad()
    def measure(
        self, codes: torch.Tensor | None, targets: Sequence[Sequence[int]]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Nats per token and token accuracy of passages given their codes; None = no memory.

        Returns: (B,), (B,)
        """
        prompts = [self._prefix] * len(targets) if codes is None else self._prompts(codes)
        logits = target_logits(self._lm, prompts, targets)
        return nats_per_token(logits, targets), token_accuracy(logits, targets)

    def _descend(
        self,
        first_guess: torch.Tensor,
        targets: Sequence[Sequence[int]],
        questions: Sequence[Sequence[Question]],
        progress: Callable[[float], None],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Best codes (B, m, d) on the objective, and the steps each passage took (B,)."""
        rows = len(first_guess)
        delta = torch.zeros_like(first_guess, requires_grad=True)  # (B, m, d), orthonormal basis
        optimizer = torch.optim.Adam([delta], lr=self._learning_rate, betas=BETAS)
        best_codes = first_guess.clone()
        best = torch.full((rows,), torch.inf, device=first_guess.device)
        reference = best.clone()  # objective at the last patience check
        steps = torch.zeros(rows, dtype=torch.long, device=first_guess.device)
        active = torch.arange(rows, device=first_guess.device)
        for step in range(self._steps):
            codes = first_guess[active] + delta[active] @ self._to_code
            rows_now = active.tolist()
            objective = self._objective(
                codes, [targets[i] for i in rows_now], [questions[i] for i in rows_now], step
            )
            optimizer.zero_grad()
            objective.sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            with torch.no_grad():
                value = objective.detach()
                better = value < best[active]
                best_codes[active[better]] = codes.detach()[better]
                best[active] = torch.minimum(best[active], value)
                steps[active] = step + 1
                if (step + 1) % PATIENCE_STEPS == 0:
                    keep = reference[active] - best[active] > MIN_GAIN_NATS
                    reference[active] = best[active]
                    active = active[keep]
            progress((step + 1) / self._steps)
            if len(active) == 0:
                break
        return best_codes, steps

    def _objective(
        self,
        codes: torch.Tensor,
        targets: Sequence[Sequence[int]],
        questions: Sequence[Sequence[Question]],
        step: int,
    ) -> torch.Tensor:
        """(b, m, d) -> (b,): reconstruction plus distillation on this step's question."""
        prompts = self._prompts(codes)
        loss = nats_per_token(target_logits(self._lm, prompts, targets), targets)
        asked = [of_passage[step % TRAIN_QUESTIONS] for of_passage in questions]
        return loss + DISTILLATION_WEIGHT * divergence(self._lm, prompts, asked)

    @torch.no_grad()
    def _judge(
        self,
        first_guess: torch.Tensor,
        codes: torch.Tensor,
        steps: torch.Tensor,
        targets: Sequence[Sequence[int]],
        held_out: Sequence[Sequence[Question]],
    ) -> tuple[torch.Tensor, list[FitReport]]:
        without, _ = self.measure(None, targets)
        before, accuracy_before = self.measure(first_guess, targets)
        after, accuracy_after = self.measure(codes, targets)
        kl_before = self._held_out_kl(first_guess, held_out)
        kl_after = self._held_out_kl(codes, held_out)
        accepted = (after < before) & (kl_after <= kl_before + HELD_OUT_TOLERANCE_NATS)
        kept = torch.where(accepted[:, None, None], codes, first_guess)
        reports = [
            FitReport(
                nats_without_memory=float(without[i]),
                nats_first_guess=float(before[i]),
                nats=float(after[i] if accepted[i] else before[i]),
                token_accuracy=float(accuracy_after[i] if accepted[i] else accuracy_before[i]),
                steps=int(steps[i]),
                held_out_kl_first_guess=float(kl_before[i]),
                held_out_kl=float(kl_after[i]),
                accepted=bool(accepted[i]),
            )
            for i in range(len(codes))
        ]
        return kept, reports

    def _held_out_kl(
        self, codes: torch.Tensor, held_out: Sequence[Sequence[Question]]
    ) -> torch.Tensor:
        """(B, m, d) -> (B,)"""
        prompts = self._prompts(codes)
        rounds = [divergence(self._lm, prompts, asked) for asked in zip(*held_out, strict=True)]
        return torch.stack(rounds).mean(dim=0)

    def _prompts(self, codes: torch.Tensor) -> list[torch.Tensor]:
        """(B, m, d) -> B of (P, h): the template's tokens before the memories, then a memory."""
        return [torch.cat([self._prefix, slots]) for slots in self._reader.expand(codes)]
