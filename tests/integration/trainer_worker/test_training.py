"""A whole training run on a tiny random model: stages, resume, and a clear end on divergence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from memory_model.base import load_base
from memory_model.bundle import load_bundle
from memory_model.calibration import create_untrained_bundle
from trainer_worker.train.checkpoint import load_checkpoint
from trainer_worker.train.config import TrainConfig
from trainer_worker.train.dataset import Row, load_training_set
from trainer_worker.train.errors import TrainingError
from trainer_worker.train.losses import continuation_blocks
from trainer_worker.train.networks import build_networks
from trainer_worker.train.run import train_bundle
from trainer_worker.train.start import start_from
from trainer_worker.train.trainer import Trainer

TEXT = {"name": "text", "context": "text", "steps": 3, "learning_rate": 0.01, "warmup_steps": 1}
MEMORY = {
    "name": "memory",
    "context": "memory",
    "steps": 3,
    "learning_rate": 0.01,
    "warmup_steps": 1,
    "tokens_per_slot": [1.0, 3.0],
    "reconstruction_weight": 0.3,
    "teacher_weight": 0.5,
    "imitation_weight": 0.5,
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Ten documents on two topics, two questions each."""
    folder = tmp_path / "data"
    folder.mkdir()
    documents, questions = [], []
    for number in range(10):
        name = f"Person{number}"
        documents.append(
            {
                "id": f"d{number}",
                "title": f"topic {number % 2}",
                "text": f"{name} lives in town {number * 7} and has a cat of {number + 2} years.",
            }
        )
        for asked, answer in (("Where is the home?", f"town {number * 7}"), ("Age?", "cat")):
            questions.append(
                {"question": f"{name}: {asked}", "answers": [answer], "doc_ids": [f"d{number}"]}
            )
    (folder / "toy-train.docs.jsonl").write_text("\n".join(map(json.dumps, documents)))
    (folder / "toy-train.qa.jsonl").write_text("\n".join(map(json.dumps, questions)))
    return folder


def config(model: Path, *stages: dict[str, Any]) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "model": str(model),
            "datasets": ["toy-train"],
            "slots": 4,
            "z_dim": 32,
            "layers": 2,
            "write_rank": 2,
            "read_rank": 2,
            "passage_tokens": 64,
            "batch_tokens": 64,
            "passages_per_row": [1, 2],
            "stages": list(stages),
        }
    )


def trainer(run: TrainConfig, data: Path, directory: Path) -> Trainer:
    base = load_base(run.model, cache=directory / "cache", device="cpu")
    rows = load_training_set(data, run.datasets, base, run.template, run.passage_tokens)
    return Trainer(run, build_networks(run, base), rows, directory)


def stored(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Trained tensors as a bundle keeps them: adapters in bf16."""
    return {
        name: tensor.bfloat16().float() if "_adapter:" in name else tensor
        for name, tensor in state.items()
    }


def metrics(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def test_both_stages_run_and_every_loss_is_recorded(
    tiny_model: Path, data: Path, tmp_path: Path
) -> None:
    end = MEMORY | {"name": "end", "context": "selected", "tokens_per_slot": [1.0, 2.0]}
    trainer(config(tiny_model, TEXT, MEMORY, end), data, tmp_path).train()
    steps = metrics(tmp_path)
    assert [step["stage"] for step in steps] == ["text"] * 3 + ["memory"] * 3 + ["end"] * 3
    names = set().union(*steps)
    assert {"answer", "teacher", "imitation", "reconstruction", "text_answer"} <= names
    for step in steps[-3:]:
        said = 0.3 * step.get("reconstruction", 0.0)
        parts = step["answer"] + 0.5 * (step["teacher"] + step["imitation"]) + said
        assert step["loss"] == pytest.approx(parts + 0.1 * step["retrieval"], abs=1e-4)


def test_each_stage_trains_its_own_parts(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    trainer(config(tiny_model, TEXT), data, tmp_path).train()
    found = load_checkpoint(tmp_path / "checkpoints")
    assert found is not None
    after_text = found[1]
    resumed = trainer(config(tiny_model, TEXT, MEMORY), data, tmp_path)
    resumed.train(resumed.resume())
    found = load_checkpoint(tmp_path / "checkpoints")
    assert found is not None
    changed = {
        name.split(":")[0]
        for name, tensor in found[1].items()
        if not torch.equal(tensor, after_text[name])
    }
    assert changed == {"read_adapter", "write_adapter", "compressor", "expander"}


@pytest.mark.parametrize(
    ("context", "frozen", "trained"),
    [
        ("memory", ["reader"], {"write_adapter", "compressor", "expander"}),
        ("memory", ["compressor", "heads"], {"read_adapter"}),
        ("memory", ["heads"], {"read_adapter", "write_adapter"}),
        ("selected", ["compressor", "heads"], {"read_adapter", "selector"}),
        ("selected", ["reader", "compressor", "heads"], {"selector"}),
    ],
)
def test_a_stage_leaves_frozen_parts_as_they_are(
    tiny_model: Path, data: Path, tmp_path: Path, context: str, frozen: list[str], trained: set[str]
) -> None:
    before = trainer(config(tiny_model, TEXT, MEMORY), data, tmp_path / "before")
    before.train()
    frozen_stage = {**MEMORY, "context": context, "name": "frozen", "frozen": frozen}
    after = trainer(config(tiny_model, TEXT, MEMORY, frozen_stage), data, tmp_path / "before")
    start = load_checkpoint(tmp_path / "before" / "checkpoints")
    after.train(after.resume())
    end = load_checkpoint(tmp_path / "before" / "checkpoints")
    assert start is not None
    assert end is not None
    changed = {
        name.split(":")[0]
        for name, tensor in end[1].items()
        if not torch.equal(tensor, start[1][name])
    }
    assert changed == trained


@pytest.mark.parametrize(
    ("stage", "reason"),
    [
        ({**TEXT, "frozen": ["reader"]}, "nothing can be frozen"),
        ({**MEMORY, "frozen": ["reader", "compressor", "heads"]}, "nothing is trained"),
        (
            {**MEMORY, "context": "selected"}
            | {"frozen": ["reader", "compressor", "heads", "selector"]},
            "nothing is trained",
        ),
    ],
)
def test_a_stage_that_would_train_nothing_is_refused(
    tiny_model: Path, stage: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        config(tiny_model, stage)


def test_a_memory_learns_to_say_what_follows_its_passage(
    tiny_model: Path, data: Path, tmp_path: Path
) -> None:
    """One document of many passages: its last one has nothing to go on with."""
    sentence = "Person0 lives in town 0 and has a cat of 2 years. "
    (data / "toy-train.docs.jsonl").write_text(json.dumps({"id": "d0", "text": sentence * 20}))
    following = MEMORY | {"continuation_weight": 1.0, "steps": 6}
    run = config(tiny_model, TEXT, following).model_copy(update={"passages_per_row": [1]})
    made = trainer(run, data, tmp_path)
    passages = made._data.passages
    assert [passage.next for passage in passages] == [*range(1, len(passages)), None]
    assert len(passages) > 2
    rows = [Row((number,), (), ()) for number in (0, len(passages) - 1)]
    [first], last = continuation_blocks(made._networks, made._data, rows)
    assert first.token_ids[first.prompt_length :] == passages[1].token_ids
    assert first.prompt_length == len(made._networks.reader.separator_tokens) > 0
    assert last == []


def test_a_full_adapter_can_add_any_matrix(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    run = config(tiny_model, TEXT, MEMORY).model_copy(
        update={"write_rank": "full", "read_rank": "full"}
    )
    bundle = train_bundle(run, data, tmp_path)
    adapters = load_file(bundle / "read_adapter" / "adapter_model.safetensors")
    base = load_base(run.model, cache=tmp_path, device="cpu")
    weights = dict(base.lm.named_parameters())
    for name, factor in adapters.items():
        if ".lora_A." in name:
            layer = name.removeprefix("base_model.model.").split(".lora_A.")[0]
            assert min(weights[f"{layer}.weight"].shape) <= len(factor)  # (r, in)
    assert load_bundle(bundle, base).config.trained


def test_a_stage_may_read_quantised_codes(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    """The quantiser starts from the codes, follows them, and comes with the bundle."""
    coarse = MEMORY | {"name": "coarse", "quantised_share": 1.0, "steps": 6}
    run = config(tiny_model, TEXT, coarse)
    bundle = load_bundle(
        train_bundle(run, data, tmp_path), load_base(run.model, cache=tmp_path, device="cpu")
    )
    steps = [step for step in metrics(tmp_path) if step["stage"] == "coarse"]
    assert all("quantised_answer" in step and "answer" not in step for step in steps)
    assert all(0 < step["quantisation"] < 1 for step in steps)
    assert bundle.quantiser is not None
    with torch.no_grad():
        text = json.loads((data / "toy-train.docs.jsonl").read_text().splitlines()[0])["text"]
        codes = bundle.compressor.compress([bundle.base.tokenize(text)])  # (1, m, d)
        names = bundle.quantiser.encode(codes)
        lost = (bundle.quantiser.decode(names) - codes).square().sum() / codes.square().sum()
    assert names.dtype is torch.uint8
    assert lost < 0.5
    found = load_checkpoint(tmp_path / "checkpoints")
    assert found is not None
    assert {"quantiser:codebooks", "quantiser:mixture.weights"} <= found[1].keys()


def test_the_memory_reader_starts_as_the_text_reader_on_the_text_itself(
    tiny_model: Path, data: Path, tmp_path: Path
) -> None:
    one_token = MEMORY | {"tokens_per_slot": [1.0, 1.0], "steps": 1}
    run = config(tiny_model, TEXT, one_token).model_copy(update={"z_dim": 64})  # d = h
    trainer(run, data, tmp_path).train()
    assert metrics(tmp_path)[-1]["teacher"] == pytest.approx(0.0, abs=1e-4)
    assert metrics(tmp_path)[-1]["imitation"] == pytest.approx(0.0, abs=1e-4)


def test_a_resumed_run_goes_on_where_it_stopped(
    tiny_model: Path, data: Path, tmp_path: Path
) -> None:
    run = config(tiny_model, TEXT, MEMORY)
    trainer(config(tiny_model, TEXT), data, tmp_path).train()
    resumed = trainer(run, data, tmp_path)
    start = resumed.resume()
    assert start == 3
    resumed.train(start)
    assert [step["step"] for step in metrics(tmp_path)] == list(range(6))


def test_training_stops_on_a_loss_that_is_not_finite(
    tiny_model: Path, data: Path, tmp_path: Path
) -> None:
    trainer(config(tiny_model, TEXT), data, tmp_path).train()
    broken = trainer(config(tiny_model, TEXT, MEMORY), data, tmp_path)
    start = broken.resume()
    parameters = broken._networks.adapter_parameters("text_adapter")
    with torch.no_grad():
        parameters[0].fill_(float("nan"))
    with pytest.raises(TrainingError, match="not finite at step 3"):
        broken.train(start)
    found = load_checkpoint(tmp_path / "checkpoints")
    assert found is not None
    assert found[0].step == 3
    assert all(tensor.isfinite().all() for tensor in found[1].values())


def test_a_trained_bundle_reads_as_the_networks_did(
    tiny_model: Path, data: Path, tmp_path: Path
) -> None:
    run = config(tiny_model, TEXT, MEMORY)
    bundle = train_bundle(run, data, tmp_path / "run")
    assert train_bundle(run, data, tmp_path / "run", resume=True) == bundle  # nothing left to do
    networks = build_networks(run, load_base(run.model, cache=tmp_path, device="cpu"))
    found = load_checkpoint(tmp_path / "run" / "checkpoints")
    assert found is not None
    networks.load_state(stored(found[1]))
    loaded = load_bundle(bundle, load_base(run.model, cache=tmp_path, device="cpu"))
    tokens = [[3, 50, 60, 70, 80]]
    with torch.no_grad():
        codes = loaded.compressor.compress(tokens)
        torch.testing.assert_close(codes, networks.compressor.compress(tokens))
        networks.read_with("read_adapter")
        ids = torch.tensor(tokens)
        # in double: merged or not, the sums of float32 differ by more than its bounds on some CPUs
        expected = networks.base.lm.double()(input_ids=ids).logits
        read = loaded.read_lm.double()(input_ids=ids).logits
        torch.testing.assert_close(read, expected, rtol=1.3e-6, atol=1e-5)  # float32's own
    assert (tmp_path / "run" / "losses.png").stat().st_size > 0


def test_a_run_goes_on_from_a_bundle(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    bundle = train_bundle(config(tiny_model, TEXT, MEMORY), data, tmp_path / "first")
    further = config(tiny_model, MEMORY).model_copy(update={"start": bundle, "selection": None})
    networks = build_networks(further, load_base(further.model, cache=tmp_path, device="cpu"))
    start_from(networks, bundle)
    found = load_checkpoint(tmp_path / "first" / "checkpoints")
    assert found is not None
    state = networks.state()
    for name, tensor in stored(found[1]).items():
        if not name.startswith(
            ("selector:reranker", "quantiser")
        ):  # trained after the last checkpoint
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
    "left_out", [{"stages": []}, {"selection": None}, {"reranking": None}], ids=str
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
