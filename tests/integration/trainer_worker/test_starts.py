"""What a training run may begin from, and what it refuses to begin from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from memory_model.base import load_base
from memory_model.bundle import load_bundle
from memory_model.calibration import create_untrained_bundle
from tests.integration.trainer_worker.runs import MEMORY, TEXT, config, metrics, stored, trainer
from trainer_worker.train.checkpoint import load_checkpoint
from trainer_worker.train.config import TrainConfig
from trainer_worker.train.errors import TrainingError
from trainer_worker.train.networks import build_networks
from trainer_worker.train.run import train_bundle
from trainer_worker.train.start import start_from


def test_a_run_goes_on_from_a_bundle(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    bundle = train_bundle(config(tiny_model, TEXT, MEMORY), data, tmp_path / "first")
    further = config(tiny_model, MEMORY).model_copy(update={"start": bundle, "selection": None})
    networks = build_networks(further, load_base(further.model, cache=tmp_path, device="cpu"))
    start_from(networks, bundle)
    found = load_checkpoint(tmp_path / "first" / "checkpoints")
    assert found is not None
    state = networks.state()
    for name, tensor in stored(found[1]).items():
        after = ("selector:reranker", "quantiser")  # trained after the last checkpoint
        if not name.startswith(after):
            torch.testing.assert_close(state[name], tensor)
    second = load_bundle(
        train_bundle(further, data, tmp_path / "second"),
        load_base(further.model, cache=tmp_path, device="cpu"),
    )
    torch.testing.assert_close(
        second.selector.key_head.weight, networks.selector.key_head.weight.detach()
    )
    changed = second.compressor.code_head.weight - networks.compressor.code_head.weight
    assert changed.abs().max() > 0


@pytest.mark.parametrize("frozen", [True, False])
def test_memories_that_are_not_trained_keep_their_windows(
    tiny_model: Path, data: Path, tmp_path: Path, frozen: bool
) -> None:
    """A start with even windows, as bundles of format 1 have them."""
    first = train_bundle(config(tiny_model, TEXT, MEMORY), data, tmp_path / "first")
    heads = load_file(first / "heads.safetensors")
    heads["compressor.token_information"].fill_(1.0)
    save_file(heads, first / "heads.safetensors")
    stage = MEMORY | {"frozen": ["compressor", "heads"] if frozen else []}
    run = config(tiny_model, stage).model_copy(update={"start": first, "selection": None})
    second = load_file(train_bundle(run, data, tmp_path / "second") / "heads.safetensors")
    even = torch.ones_like(second["compressor.token_information"])
    assert torch.equal(second["compressor.token_information"], even) == frozen


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"z_dim": 16}, "does not have the shapes"), ({"read_rank": 4}, "does not have the shapes")],
)
def test_a_bundle_of_other_shapes_is_no_start(
    tiny_model: Path, data: Path, tmp_path: Path, changes: dict[str, int], message: str
) -> None:
    bundle = train_bundle(config(tiny_model, TEXT, MEMORY), data, tmp_path / "first")
    other = config(tiny_model, MEMORY).model_copy(update={"start": bundle, **changes})
    with pytest.raises(TrainingError, match=message):
        train_bundle(other, data, tmp_path / "second")


def test_an_untrained_bundle_is_no_start(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    base = load_base(str(tiny_model), cache=tmp_path, device="cpu")
    create_untrained_bundle(tmp_path / "untrained", base, slots=4, z_dim=32)
    run = config(tiny_model, MEMORY).model_copy(update={"start": tmp_path / "untrained"})
    with pytest.raises(TrainingError, match="not a trained bundle"):
        train_bundle(run, data, tmp_path / "run")


@pytest.mark.parametrize(
    "left_out",
    [{"stages": []}, {"selection": None}, {"reranking": None}, {"quantisation": None}],
    ids=str,
)
def test_without_a_start_every_part_must_be_trained(
    tiny_model: Path, left_out: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match="there must be a start"):
        TrainConfig.model_validate(config(tiny_model, TEXT).model_dump() | left_out)


def test_the_quantiser_alone_can_be_fitted_to_a_bundle(
    tiny_model: Path, data: Path, tmp_path: Path
) -> None:
    first = train_bundle(config(tiny_model, TEXT, MEMORY), data, tmp_path / "first")
    run = TrainConfig.model_validate(
        config(tiny_model, TEXT).model_dump()
        | {"start": first, "stages": [], "selection": None, "reranking": None}
        | {"quantisation": {"words": 2, "stages": 3}}
    )
    second = train_bundle(run, data, tmp_path / "second")
    base = load_base(run.model, cache=tmp_path, device="cpu")
    quantiser = load_bundle(second, base).quantiser
    assert quantiser is not None
    assert quantiser.slot_bytes == 2 * 2 + 1 + 3
    [step] = metrics(tmp_path / "second")
    assert 0 < step["quantisation"] < 0.5
    for name in ("heads.safetensors", "read_adapter/adapter_model.safetensors"):
        kept, before = load_file(second / name), load_file(first / name)
        assert all(torch.equal(kept[key], before[key]) for key in before)


def readers_run(model: Path, start: Path, quantised_share: float) -> TrainConfig:
    """Everything else stays as it is in ``start``."""
    stage = MEMORY | {"frozen": ["compressor", "heads"], "quantised_share": quantised_share}
    kept = {"start": start, "selection": None, "reranking": None, "quantisation": None}
    return TrainConfig.model_validate(config(model, stage).model_dump() | kept)


@pytest.mark.parametrize(("quantised_share", "read"), [(0.0, "answer"), (1.0, "quantised_answer")])
def test_a_reader_can_be_trained_with_the_codes_and_their_quantiser_as_they_are(
    tiny_model: Path, data: Path, tmp_path: Path, quantised_share: float, read: str
) -> None:
    first = train_bundle(config(tiny_model, TEXT, MEMORY), data, tmp_path / "first")
    run = readers_run(tiny_model, first, quantised_share)
    second = train_bundle(run, data, tmp_path / "second")
    assert all(read in step for step in metrics(tmp_path / "second"))
    assert (second / "codebooks.safetensors").read_bytes() == (
        first / "codebooks.safetensors"
    ).read_bytes()
    name = "read_adapter/adapter_model.safetensors"
    kept, before = load_file(second / name), load_file(first / name)
    assert any(not torch.equal(kept[key], before[key]) for key in before)


def test_quantised_codes_cannot_be_read_with_a_quantiser_that_the_start_does_not_have(
    tiny_model: Path, data: Path, tmp_path: Path
) -> None:
    first = train_bundle(config(tiny_model, TEXT, MEMORY), data, tmp_path / "first")
    (first / "codebooks.safetensors").unlink()
    with pytest.raises(TrainingError, match="has no quantiser to keep; set quantisation"):
        train_bundle(readers_run(tiny_model, first, 0.5), data, tmp_path / "second")


def test_a_quantiser_cannot_stay_where_codes_change(tiny_model: Path, tmp_path: Path) -> None:
    fields = config(tiny_model, MEMORY | {"frozen": ["compressor"]}).model_dump()
    with pytest.raises(ValueError, match="need a quantisation of their own"):
        TrainConfig.model_validate(fields | {"start": tmp_path, "quantisation": None})


def test_a_run_is_not_overwritten_without_resume(
    tiny_model: Path, data: Path, tmp_path: Path
) -> None:
    run = config(tiny_model, TEXT)
    trainer(run, data, tmp_path / "run").train()
    with pytest.raises(TrainingError, match="--resume"):
        train_bundle(run, data, tmp_path / "run")


def test_only_train_splits_are_trained_on(tiny_model: Path) -> None:
    with pytest.raises(ValueError, match="squad-dev is not a train split"):
        TrainConfig.model_validate(
            config(tiny_model, TEXT).model_dump() | {"datasets": ["squad-dev"]}
        )


def test_a_missing_data_set_is_named(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    run = config(tiny_model, TEXT).model_copy(update={"datasets": ["absent-train"]})
    with pytest.raises(TrainingError, match=r"absent-train\.docs\.jsonl"):
        trainer(run, data, tmp_path)
