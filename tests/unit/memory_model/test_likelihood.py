"""Likelihoods against the language model's own loss."""

from __future__ import annotations

import pytest
import torch

from memory_model.bundle import Bundle
from memory_model.likelihood import nats_per_token, target_logits

PROMPTS = [[1, 30, 40, 50], [1, 31]]
TARGETS = [[60, 70, 80, 90, 100], [61]]


def test_nats_equal_the_models_own_loss_on_tokens(tiny_bundle: Bundle) -> None:
    base = tiny_bundle.base
    with torch.no_grad():
        prompts = [base.embed_tokens(torch.tensor(prompt)) for prompt in PROMPTS]
        measured = nats_per_token(target_logits(base.lm, prompts, TARGETS), TARGETS)
        for row, (prompt, target) in enumerate(zip(PROMPTS, TARGETS, strict=True)):
            labels = torch.tensor([[-100] * len(prompt) + target])
            loss = base.lm(input_ids=torch.tensor([prompt + target]), labels=labels).loss
            assert measured[row].item() == pytest.approx(loss.item(), rel=1e-4)


def test_rows_of_a_batch_do_not_influence_each_other(tiny_bundle: Bundle) -> None:
    base = tiny_bundle.base
    with torch.no_grad():
        prompts = [base.embed_tokens(torch.tensor(prompt)) for prompt in PROMPTS]
        together = target_logits(base.lm, prompts, TARGETS)
        alone = target_logits(base.lm, prompts[1:], TARGETS[1:])
    torch.testing.assert_close(together[5:], alone, atol=1e-4, rtol=1e-4)
