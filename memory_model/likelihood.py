"""log P(text | memory): teacher-forced likelihood of token sequences after soft prompts.

Symbols: B = batch, P = prompt positions, L = target tokens, h = hidden size, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Targets:
    """Right-padded target tokens."""

    ids: torch.Tensor  # (B, L)
    mask: torch.Tensor  # (B, L) bool

    @classmethod
    def pad(cls, token_ids: Sequence[Sequence[int]], device: torch.device) -> Targets:
        """Pad to the longest; padding never counts."""
        longest = max(len(ids) for ids in token_ids)
        padded = [[*ids, *([0] * (longest - len(ids)))] for ids in token_ids]
        lengths = torch.tensor([len(ids) for ids in token_ids], device=device)
        ids = torch.tensor(padded, device=device)
        return cls(ids, torch.arange(longest, device=device) < lengths[:, None])

    @property
    def lengths(self) -> torch.Tensor:
        """(B,)"""
        return self.mask.sum(dim=1)

    def __getitem__(self, rows: torch.Tensor) -> Targets:
        """The same targets for some rows of the batch, cut to their longest."""
        mask = self.mask[rows]
        longest = int(mask.sum(dim=1).max())
        return Targets(self.ids[rows, :longest], mask[:, :longest])


def target_logits(
    lm: Any, prompt: torch.Tensor, prompt_mask: torch.Tensor | None, targets: Targets
) -> torch.Tensor:
    """Logits that predict each target token from the prompt and the targets before it.

    Args:
        prompt: (B, P, h) in the LLM's dtype; gradients flow through it.
        prompt_mask: (B, P) bool for left-padded prompts; None = all real.

    Returns: (B, L, V) float32.
    """
    embedded = lm.get_input_embeddings()(targets.ids)  # (B, L, h)
    inputs = torch.cat([prompt, embedded.to(prompt.dtype)], dim=1)  # (B, P + L, h)
    if prompt_mask is None:
        prompt_mask = torch.ones(prompt.shape[:2], dtype=torch.bool, device=prompt.device)
    mask = torch.cat([prompt_mask, targets.mask], dim=1)  # (B, P + L)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    states = lm.base_model(
        inputs_embeds=inputs,
        attention_mask=mask.long(),
        position_ids=positions,
        use_cache=False,
    ).last_hidden_state
    # only the positions before a target are projected: the vocabulary is most of a small model
    states = states[:, prompt.shape[1] - 1 : -1]  # (B, L, h)
    logits: torch.Tensor = lm.get_output_embeddings()(states).float()
    return logits


def nats(logits: torch.Tensor, targets: Targets) -> torch.Tensor:
    """-log P of each target sequence, summed over its tokens. (B, L, V) -> (B,)"""
    losses = functional.cross_entropy(logits.flatten(0, 1), targets.ids.flatten(), reduction="none")
    return (losses.view(targets.ids.shape) * targets.mask).sum(dim=1)


def token_accuracy(logits: torch.Tensor, targets: Targets) -> torch.Tensor:
    """Share of target tokens that are the argmax. (B, L, V) -> (B,)"""
    right = (logits.argmax(dim=-1) == targets.ids) & targets.mask
    return right.sum(dim=1) / targets.lengths
