"""Likelihoods against the language model's own loss."""

from __future__ import annotations

import pytest
import torch

from memory_model.bundle import Bundle
from memory_model.likelihood import Targets, nats, target_logits, token_accuracy

PROMPT = [1, 30, 40, 50]
TARGETS = [[60, 70, 80, 90, 100], [61, 71]]


def test_nats_equal_the_models_own_loss_on_tokens(tiny_bundle: Bundle) -> None:
    base = tiny_bundle.base
    device = torch.device("cpu")
    targets = Targets.pad(TARGETS, device)
    with torch.no_grad():
        prompt = base.embed_tokens(torch.tensor([PROMPT, PROMPT]))
        measured = nats(target_logits(base.lm, prompt, None, targets), targets)
        for row, target in enumerate(TARGETS):
            labels = torch.tensor([[-100] * len(PROMPT) + target])
            loss = base.lm(input_ids=torch.tensor([PROMPT + target]), labels=labels).loss
            assert measured[row].item() == pytest.approx(loss.item() * len(target), rel=1e-4)


def test_left_padding_of_prompts_changes_nothing(tiny_bundle: Bundle) -> None:
    base = tiny_bundle.base
    targets = Targets.pad([TARGETS[0]], torch.device("cpu"))
    with torch.no_grad():
        plain = target_logits(base.lm, base.embed_tokens(torch.tensor([PROMPT])), None, targets)
        padded_prompt = base.embed_tokens(torch.tensor([[0, 0, 0, *PROMPT]]))
        mask = torch.tensor([[False] * 3 + [True] * 4])
        padded = target_logits(base.lm, padded_prompt, mask, targets)
    torch.testing.assert_close(plain, padded, atol=1e-4, rtol=1e-4)


def test_accuracy_counts_only_real_tokens() -> None:
    targets = Targets.pad([[1, 2, 3], [0]], torch.device("cpu"))
    logits = torch.nn.functional.one_hot(torch.tensor([[1, 2, 0], [0, 0, 0]]), 4).float()
    assert token_accuracy(logits, targets).tolist() == pytest.approx([2 / 3, 1.0])
