"""``paramem train`` from the shell's side."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from clients.cli.app import app
from trainer_worker.train.config import load_config

CONFIGS = Path(__file__).parents[3] / "experiments" / "configs"


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_configuration_of_the_repository_is_valid(file: Path) -> None:
    load_config(file)  # raises where it is not


def test_a_wrong_configuration_ends_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text("model: smollm2-135m\n")
    result = CliRunner().invoke(app, ["train", "--config", str(file), "--data", str(tmp_path)])
    assert result.exit_code == 1
    assert "not a valid training configuration" in result.stderr
    assert "datasets" in result.stderr


def test_a_missing_data_folder_is_named(tiny_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        f"{{model: '{tiny_model}', datasets: [squad-train], slots: 4, z_dim: 32, layers: 1, "
        "stages: [{name: text, context: text, steps: 1, learning_rate: 0.01}]}"
    )
    command = [
        "train",
        "--config",
        str(file),
        "--data",
        str(tmp_path),
        "--out",
        str(tmp_path / "r"),
    ]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1
    assert "squad-train.docs.jsonl.gz" in result.stderr
