"""``paramem train``: a bundle from a configuration and data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clients.cli.console import print_json, progress_bar, say
from clients.cli.failures import CommandError
from clients.cli.options import AsJson
from clients.cli.refusals import refusals


def train(
    config: Annotated[Path, typer.Option("--config", help="YAML in experiments/configs/.")],
    data: Annotated[Path, typer.Option("--data", help="Folder of the data sets.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the run.")] = Path("runs/default"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train a bundle: checkpoints, metrics.jsonl, losses.png and bundle/ in --out."""
    with refusals():
        from trainer_worker.train.config import load_config
        from trainer_worker.train.errors import TrainingError
        from trainer_worker.train.run import train_bundle

        try:
            run = load_config(config)
            with progress_bar("training", run.reports, quiet=as_json) as bar:

                def show(values: dict[str, float | int | str]) -> None:
                    bar.move_to(int(values["step"]) + 1, f"{values['stage']} {values['loss']:.3f}")

                bundle = train_bundle(run, data, out, resume=resume, report=show)
        except TrainingError as error:
            raise CommandError(str(error)) from error
    if as_json:
        print_json({"bundle": str(bundle)})
    else:
        say(str(bundle))
