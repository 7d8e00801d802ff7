"""The tiny random LLM, plain and packed."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from memory_model.packed_llama import pack_model


def full_lm(tiny_model: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()


def packed_lm(tiny_model: Path) -> PreTrainedModel:
    """Computes prompts and rows side by side: where it can be had, on an x86 CPU."""
    return pack_model(full_lm(tiny_model), may_round=True)
