"""A whole training run on a tiny random model: stages, resume, and a clear end on divergence."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from memory_model.base import load_base
from memory_model.bundle import load_bundle
from tests.integration.trainer_worker.runs import MEMORY, TEXT, config, metrics, stored, trainer
from trainer_worker.train.checkpoint import load_checkpoint
from trainer_worker.train.dataset import Row
from trainer_worker.train.errors import TrainingError
from trainer_worker.train.losses import continuation_blocks, memory_contexts
from trainer_worker.train.networks import build_networks
from trainer_worker.train.run import train_bundle


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


def test_a_reader_may_learn_from_memories_after_the_first_in_fewer_slots(
    tiny_model: Path, data: Path, tmp_path: Path
) -> None:
    """As the service gives them, and the bundle says so."""
    run = config(tiny_model, TEXT, MEMORY).model_copy(
        update={"coarse_slots": 2, "score_margin": 0.5}
    )
    made = trainer(run, data, tmp_path / "half")
    codes = {number: torch.randn(4, run.z_dim) for number in (0, 1)}
    rows = [Row((0, 1), (), ())]
    (whole,) = memory_contexts(made._networks, rows, codes)
    (coarse,) = memory_contexts(made._networks, rows, codes, coarse_slots=2)
    assert len(coarse) == len(whole) - 2
    bundle = train_bundle(run, data, tmp_path / "run")
    base = load_base(run.model, cache=tmp_path, device="cpu")
    trained = load_bundle(bundle, base).config
    assert (trained.coarse_slots, trained.score_margin) == (2, 0.5)


def test_rows_may_ask_about_their_first_passage_only(
    tiny_model: Path, data: Path, tmp_path: Path
) -> None:
    run = config(tiny_model, TEXT)
    questions = trainer(run, data, tmp_path)._data
    drawn = random.Random(0)
    golds: dict[float, list[set[int]]] = {0.0: [], 1.0: []}
    for best_first, found in golds.items():
        for _ in range(40):
            row = questions.sample(
                drawn, passages=3, questions=4, absent_share=0.0, best_first=best_first
            )
            places = {row.passages.index(questions.questions[q].gold) for q in row.questions}
            found.append(places)
    assert all(places == {0} for places in golds[1.0])
    assert set().union(*golds[0.0]) == {0, 1, 2}


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
