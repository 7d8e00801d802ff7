"""Going on from a bundle: what was trained before is where the networks start."""

from __future__ import annotations

from pathlib import Path

from peft import set_peft_model_state_dict
from safetensors.torch import load_file

from memory_model.bundle import (
    ADAPTER_WEIGHTS,
    READ_ADAPTER,
    TEXT_ADAPTER,
    WRITE_ADAPTER,
    load_heads,
    read_config,
    rival_directory,
)
from trainer_worker.train.errors import TrainingError
from trainer_worker.train.networks import Networks


def start_from(networks: Networks, bundle: Path) -> None:
    """Load a trained bundle's adapters and heads, and its text reader, into the networks.

    Raises:
        TrainingError: it belongs to another base model, or has other shapes (says which).
        BundleError: it is missing or cannot be read.
    """
    config = read_config(bundle)
    if config.weights_hash != networks.base.weights_hash:
        raise TrainingError(
            f"{bundle} was made for base weights {config.weights_hash} ({config.base_model}), but "
            f"{networks.base.name} has {networks.base.weights_hash}; start from another bundle"
        )
    adapters = (
        (networks.lm, TEXT_ADAPTER, rival_directory(bundle)),
        (networks.lm, READ_ADAPTER, bundle / READ_ADAPTER),
        (networks.encoder, WRITE_ADAPTER, bundle / WRITE_ADAPTER),
    )
    try:
        for model, name, folder in adapters:
            set_peft_model_state_dict(model, load_file(folder / ADAPTER_WEIGHTS), adapter_name=name)
        load_heads(bundle, networks.heads)
    except FileNotFoundError as error:
        raise TrainingError(f"{bundle} is not a trained bundle: {error}") from error
    except RuntimeError as error:
        raise TrainingError(
            f"{bundle} does not have the shapes of this configuration (z_dim, layers, ranks): "
            f"{error}"
        ) from error
