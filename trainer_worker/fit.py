"""Gradient refinement: z_i = argmax log P(D_i | z_i), many documents at once.

Objective per passage, in nats per token:

    -log P(D | z) / L  +  w · KL( LLM reading the text || LLM reading z )  on a self-made question

The passage and the question are read in one row, behind one reading of the memory (``packing``).
Adam runs in an orthonormal basis of the expander's image: a step of the optimiser then moves the
LLM's input equally far in every direction. (In raw code coordinates the whitened directions of
small variance hardly move: 24 % of the no-memory nats removed after 50 steps against 35 %,
see experiments/LOG.md.) The result is a code again, exactly.

A memory is refined until the LLM says the passage from it word for word. Steps beyond that, and
larger ones than it takes, lead away from what the reader was trained on: answers get worse, of
which the passage's likelihood tells nothing (experiments/LOG.md). A refined memory is accepted only
if it beats the first guess on the passage and does not lose on questions that the fit never saw.

All of this is of the memory as it will be stored: the LLM reads what comes back of it, and
gradients pass as if storing changed nothing (straight through: Bengio et al. 2013, arXiv
1308.3432). So codes move to where their format can say what they should.

Symbols: B = passages, m = slots, d = code dimension, h = hidden size, L = tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from memory_model.bundle import Bundle
from memory_model.passages import Passage
from memory_model.reader import Reader
from trainer_worker.packing import Block, pack, read_packed
from trainer_worker.questions import Question, QuestionMaker
from trainer_worker.rounding import Rounding

TRAIN_QUESTIONS, HELD_OUT_QUESTIONS = 1, 2
DISTILLATION_WEIGHT = 0.3
BETAS = (0.9, 0.95)
PATIENCE_STEPS = 12
MIN_GAIN_NATS = 2e-3
"""A passage stops when its memory says it word for word, or when its objective gained less than
this over ``PATIENCE_STEPS`` steps."""
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


@dataclass(frozen=True, slots=True)
class _Recall:
    """What the LLM makes of B memories."""

    nats: torch.Tensor  # (B,) per token of the passage
    accuracy: torch.Tensor  # (B,) share of its tokens that are the argmax
    divergence: torch.Tensor  # (B,) nats, mean over the questions; 0 without any


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
        *,
        as_stored: Rounding = lambda codes: codes,
    ) -> tuple[torch.Tensor, list[FitReport]]:
        """Refine the memories of B passages.

        Args:
            first_guess: (B, m, d) float32.
            progress: called with the share of steps done; what it raises ends the fit.
            as_stored: what codes (B, m, d) will have become when they are read.

        Returns: codes (B, m, d) and a report per passage. A rejected memory is its first guess.
        """
        targets = [passage.token_ids for passage in passages]
        made = self._questions.make(
            [passage.text for passage in passages], TRAIN_QUESTIONS + HELD_OUT_QUESTIONS
        )
        train = [questions[:TRAIN_QUESTIONS] for questions in made]
        held_out = [questions[TRAIN_QUESTIONS:] for questions in made]
        codes, steps = self._descend(first_guess, targets, train, progress, as_stored)
        without, _ = self.measure(None, targets)
        with torch.no_grad():
            before = self._recall(as_stored(first_guess), targets, held_out)
            after = self._recall(as_stored(codes), targets, held_out)
        accepted = (after.nats < before.nats) & (
            after.divergence <= before.divergence + HELD_OUT_TOLERANCE_NATS
        )
        reports = [
            FitReport(
                nats_without_memory=float(without[i]),
                nats_first_guess=float(before.nats[i]),
                nats=float(kept.nats[i]),
                token_accuracy=float(kept.accuracy[i]),
                steps=int(steps[i]),
                held_out_kl_first_guess=float(before.divergence[i]),
                held_out_kl=float(after.divergence[i]),
                accepted=kept is after,
            )
            for i, kept in enumerate(after if yes else before for yes in accepted)
        ]
        return torch.where(accepted[:, None, None], codes, first_guess), reports

    @torch.no_grad()
    def measure(
        self, codes: torch.Tensor | None, targets: Sequence[Sequence[int]]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Nats per token and token accuracy of passages given their codes; None = no memory.

        Returns: (B,), (B,)
        """
        recall = self._recall(codes, targets, [()] * len(targets))
        return recall.nats, recall.accuracy

    def _descend(
        self,
        first_guess: torch.Tensor,
        targets: Sequence[Sequence[int]],
        questions: Sequence[Sequence[Question]],
        progress: Callable[[float], None],
        as_stored: Rounding,
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
            stored = codes + (as_stored(codes.detach()) - codes).detach()  # straight through
            rows_now = active.tolist()
            recall = self._recall(
                stored, [targets[i] for i in rows_now], [questions[i] for i in rows_now]
            )
            objective = recall.nats + DISTILLATION_WEIGHT * recall.divergence
            optimizer.zero_grad()
            objective.sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            with torch.no_grad():
                value = objective.detach()
                better = value < best[active]
                best_codes[active[better]] = codes.detach()[better]
                best[active] = torch.minimum(best[active], value)
                steps[active] = step + 1
                keep = recall.accuracy < 1
                if (step + 1) % PATIENCE_STEPS == 0:
                    keep &= reference[active] - best[active] > MIN_GAIN_NATS
                    reference[active] = best[active]
                active = active[keep]
            progress((step + 1) / self._steps)
            if len(active) == 0:
                break
        return best_codes, steps

    def _recall(
        self,
        codes: torch.Tensor | None,
        targets: Sequence[Sequence[int]],
        questions: Sequence[Sequence[Question]],
    ) -> _Recall:
        """Read B passages and the questions on each, behind their memories.

        Args:
            codes: (B, m, d); None = behind no memory.
        """
        contexts = [self._prefix] * len(targets)  # B of (P, h)
        if codes is not None:
            contexts = [torch.cat([self._prefix, z]) for z in self._reader.expand(codes)]
        blocks = [
            [Block(tuple(target), 0), *(question.block for question in asked)]
            for target, asked in zip(targets, questions, strict=True)
        ]
        packed = pack(self._lm.get_input_embeddings(), contexts, blocks)
        output = read_packed(self._lm, packed)
        sizes = [len(block.token_ids) - block.prompt_length for row in blocks for block in row]
        of_block = zip(  # (A, V) and (A,) each
            torch.split(output.logits, sizes), torch.split(packed.targets, sizes), strict=True
        )
        nats, accuracy, divergence = [], [], []
        for asked in questions:
            logits, tokens = next(of_block)
            nats.append(functional.cross_entropy(logits, tokens))
            accuracy.append((logits.argmax(dim=-1) == tokens).float().mean())
            apart = [question.divergence(next(of_block)[0]) for question in asked]
            divergence.append(torch.stack(apart).mean() if apart else torch.zeros_like(nats[-1]))
        return _Recall(torch.stack(nats), torch.stack(accuracy), torch.stack(divergence))
