"""A bundle with a reader's LoRA strong enough to change answers, for a tiny LLM."""

from __future__ import annotations

from pathlib import Path

import torch

from memory_model.base import load_base
from memory_model.bundle import Bundle, save_bundle


def save_trained_bundle(directory: Path, model: Path, untrained: Bundle) -> Path:
    """``untrained``, of the same model, lends its heads."""
    from peft import LoraConfig, get_peft_model

    lm = load_base(str(model), cache=directory.parent, device="cpu").lm
    lora = LoraConfig(r=4, lora_alpha=32, target_modules="all-linear", init_lora_weights=False)
    torch.manual_seed(0)
    adapters = [get_peft_model(lm, lora, adapter_name="read_adapter")]
    adapters[0].add_adapter("text_adapter", lora)
    config = untrained.config.model_copy(update={"trained": True})
    save_bundle(directory, config, untrained.heads, adapters)
    return directory
