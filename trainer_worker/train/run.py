"""From a configuration file to a bundle."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from memory_model.bundle import BundleConfig, save_bundle
from memory_model.runtime import open_base
from paramem.settings import Settings, load_settings
from trainer_worker.train.checkpoint import load_checkpoint
from trainer_worker.train.codes import train_quantiser
from trainer_worker.train.config import TrainConfig
from trainer_worker.train.dataset import load_training_set
from trainer_worker.train.errors import TrainingError
from trainer_worker.train.metrics import MetricsLog
from trainer_worker.train.networks import Networks, build_networks
from trainer_worker.train.plots import plot_losses
from trainer_worker.train.reranking import train_reranker
from trainer_worker.train.selection import train_selector
from trainer_worker.train.start import start_from
from trainer_worker.train.trainer import Report, Trainer


def train_bundle(
    config: TrainConfig,
    data: Path,
    directory: Path,
    *,
    resume: bool = False,
    settings: Settings | None = None,
    report: Report = lambda _values: None,
) -> Path:
    """Run all stages and save the bundle.

    Args:
        data: folder of the data sets.
        directory: of the run: ``checkpoints/``, ``metrics.jsonl``, ``losses.png``, ``bundle/``.
        resume: go on from the newest checkpoint in ``directory``.
        settings: device, quantisation and cache; default: from the environment.

    Returns: the folder of the bundle. A finished run returns the bundle it made.

    Raises:
        TrainingError: the data cannot be used, ``directory`` holds another run, or the loss
            stopped being finite.
        ModelError: the base model cannot be loaded.
    """
    settings = settings or load_settings()
    bundle = directory / "bundle"
    if load_checkpoint(directory / "checkpoints") is not None and not resume:
        raise TrainingError(f"{directory} holds a run; go on with --resume or choose another --out")
    if bundle.is_dir():
        return bundle
    base = open_base(settings, config.model)
    training_set = load_training_set(
        data,
        config.datasets,
        base,
        config.template,
        config.passage_tokens,
        config.max_documents,
    )
    networks = build_networks(config, base)
    if config.start is not None:
        start_from(networks, config.start)
    if config.trains_codes:  # else their windows stay, too
        held = networks.compressor.token_information
        held.copy_(training_set.token_information(len(held)))
    metrics = MetricsLog(directory / "metrics.jsonl")

    def record(losses: Iterable[dict[str, float | int | str]], first: int) -> None:
        for step, values in enumerate(losses, first):
            metrics.append({"step": step} | values)
            report({"step": step} | values)

    trainer = Trainer(config, networks, training_set, directory)
    start = trainer.resume() if resume else 0
    if config.selection and not start:  # before any stage, for its checkpoints to hold it
        epochs = train_selector(networks.selector, training_set, config.selection)
        record(epochs, -config.selection.epochs)
    trainer.train(start, report)
    if config.reranking:
        record(train_reranker(networks, training_set, config.reranking), trainer.total_steps)
    if config.quantisation:
        fitted = train_quantiser(networks, training_set, config.quantisation, config.seed)
        record(fitted, trainer.total_steps)
    plot_losses(directory / "metrics.jsonl", directory / "losses.png")
    export_bundle(bundle, config, networks)
    return bundle


def export_bundle(directory: Path, config: TrainConfig, networks: Networks) -> None:
    """Save the networks as a bundle that server and worker load."""
    bundle = BundleConfig(
        base_model=networks.base.name,
        weights_hash=networks.base.weights_hash,
        slots=config.slots,
        z_dim=config.z_dim,
        layers=config.layers,
        template=config.template,
        trained=True,
        score_margin=config.score_margin,
        coarse_slots=config.coarse_slots,
    )
    quantiser = networks.quantiser if networks.quantiser.is_fitted else None
    save_bundle(directory, bundle, networks.heads, [networks.lm, networks.encoder], quantiser)
