"""log P(text | memory): teacher-forced likelihood of token sequences after soft prompts.

Rows are padded on the right under causal attention, where padding is never seen: no mask is
needed, and only the positions that predict a target are projected to the vocabulary (most of a
small model's work).

Symbols: B = batch, P = prompt positions, L = target tokens, N = all targets of the batch,
h = hidden size, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence


def target_logits(
    lm: Any, prompts: Sequence[torch.Tensor], targets: Sequence[Sequence[int]]
) -> torch.Tensor:
    """Logits that predict each target token from its prompt and the targets before it.

    Args:
        prompts: B of (P_i, h) in the LLM's dtype; gradients flow through them.
        targets: B of L_i token ids, at least one each.

    Returns: (N, V) float32, N = sum of L_i, row after row.
    """
    device = prompts[0].device
    embed = lm.get_input_embeddings()
    rows = [
        torch.cat([prompt, embed(torch.tensor(target[:-1], device=device, dtype=torch.long))])
        for prompt, target in zip(prompts, targets, strict=True)
    ]
    inputs = pad_sequence(rows, batch_first=True)  # (B, max(P + L - 1), h)
    states = lm.base_model(inputs_embeds=inputs, use_cache=False).last_hidden_state
    predicting = torch.cat(
        [
            states[i, len(prompt) - 1 : len(prompt) - 1 + len(target)]
            for i, (prompt, target) in enumerate(zip(prompts, targets, strict=True))
        ]
    )  # (N, h)
    logits: torch.Tensor = lm.get_output_embeddings()(predicting).float()
    return logits


def nats_per_token(logits: torch.Tensor, targets: Sequence[Sequence[int]]) -> torch.Tensor:
    """-log P of each target sequence over its length. (N, V) -> (B,)"""
    flat = torch.tensor([token for target in targets for token in target], device=logits.device)
    losses = functional.cross_entropy(logits, flat, reduction="none")  # (N,)
    rows = torch.split(losses, [len(target) for target in targets])
    return torch.stack([row.mean() for row in rows])
