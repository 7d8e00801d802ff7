"""Packed layers multiply as plain ones do, from weights in float16."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from memory_model.packed_linear import FEW_ROWS, PackedLinear, bytes_to_pack, pack_linears
from memory_model.runtime import ReadingModel, open_bundle
from paramem.settings import Settings
from server.engine import transformers_engine
from server.engine.transformers_engine import load_reading_model

pytestmark = pytest.mark.skipif(
    "fbgemm" not in torch.backends.quantized.supported_engines, reason="packs on x86 CPUs only"
)


def round_to_half(linear: nn.Linear) -> None:
    linear.weight.copy_(linear.weight.half())


@pytest.mark.parametrize("shape", [(1, 24), (200, 24), (3, 7, 24), (0, 24)])
@pytest.mark.parametrize("bias", [True, False])
@torch.inference_mode()
def test_a_packed_layer_gives_what_the_plain_one_gives(shape: tuple[int, ...], bias: bool) -> None:
    linear = nn.Linear(24, 40, bias=bias)
    packed = PackedLinear(linear)
    round_to_half(linear)
    inputs = torch.randn(shape)
    torch.testing.assert_close(packed(inputs), linear(inputs))


@torch.inference_mode()
def test_weights_of_a_half_precision_checkpoint_are_kept_to_the_bit() -> None:
    linear = nn.Linear(24, 40, bias=False)
    linear.weight.copy_(torch.linspace(-2.0, 2.0, 24 * 40).reshape(40, 24).bfloat16())
    assert torch.equal(PackedLinear(linear)(torch.eye(24)), linear.weight.T)


@pytest.mark.parametrize("bias", [True, False])
@torch.inference_mode()
def test_few_rows_in_bfloat16_give_the_nearest_bfloat16_to_the_product(bias: bool) -> None:
    linear = nn.Linear(24, 40, bias=bias, dtype=torch.bfloat16)
    inputs = torch.randn(3, FEW_ROWS // 3, 24, dtype=torch.bfloat16)
    exact = nn.Linear(24, 40, bias=bias)
    exact.load_state_dict(linear.state_dict())
    outputs = PackedLinear(linear)(inputs)
    torch.testing.assert_close(outputs, exact(inputs.float()).bfloat16())


@torch.inference_mode()
def test_more_rows_in_bfloat16_are_the_plain_layers() -> None:
    linear = nn.Linear(24, 40, dtype=torch.bfloat16)
    packed = PackedLinear(linear)
    inputs = torch.randn(FEW_ROWS + 1, 24, dtype=torch.bfloat16)
    plain = linear(inputs)
    linear.weight.zero_()  # no copy of its own
    assert not torch.equal(packed(inputs), plain)
    assert torch.equal(packed(inputs), linear(inputs))


def test_only_bfloat16_takes_more_memory_packed() -> None:
    half = nn.Linear(24, 40, dtype=torch.bfloat16)
    assert bytes_to_pack(nn.Sequential(nn.Linear(24, 40), half, nn.Embedding(5, 24))) == 2 * 24 * 40


@torch.inference_mode()
def test_inputs_need_not_be_contiguous() -> None:
    linear = nn.Linear(24, 40)
    round_to_half(linear)
    inputs = torch.randn(2, 24, 5).transpose(1, 2)
    torch.testing.assert_close(PackedLinear(linear)(inputs), linear(inputs))


@torch.inference_mode()
def test_a_layer_that_float16_would_cut_off_stays_plain() -> None:
    module = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    module[0].weight[3, 5] = -70_000.0
    pack_linears(module)
    assert [type(layer) for layer in module] == [nn.Linear, PackedLinear]


class Quantised(nn.Linear):
    """As bitsandbytes' layers are: linear by name, with weights of another kind."""


def test_only_plain_layers_are_packed() -> None:
    module = nn.ModuleDict(
        {
            "plain": nn.Linear(8, 8),
            "inside": nn.Sequential(nn.Linear(8, 8)),
            "brief": nn.Linear(8, 8, dtype=torch.bfloat16),
            "shorter": nn.Linear(8, 8, dtype=torch.float16),
            "quantised": Quantised(8, 8),
        }
    )
    pack_linears(module)
    packed = {name for name, part in module.named_modules() if isinstance(part, PackedLinear)}
    assert packed == {"plain", "inside.0", "brief"}


@torch.inference_mode()
def test_a_packed_reading_model_selects_and_reads_as_before(
    tiny_model: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    lm = AutoModelForCausalLM.from_pretrained(model)
    for parameter in lm.parameters():
        parameter.copy_(parameter.half())
    lm.save_pretrained(model)
    settings = Settings(home=tmp_path, model=str(model), device="cpu", slots=4, z_dim=32)
    plain, packed = (ReadingModel(open_bundle(settings)) for _ in range(2))
    packed.pack()
    codes = list(np.random.default_rng(0).standard_normal((3, plain.slots, plain.z_dim), "f4"))
    prompt = plain.prompt_embeds("Where is the ferry?", codes, ())

    layers = [type(module) for module in packed.lm.modules()]
    assert PackedLinear in layers
    assert nn.Linear not in layers
    torch.testing.assert_close(
        packed.lm(inputs_embeds=prompt[None]).logits, plain.lm(inputs_embeds=prompt[None]).logits
    )
    torch.testing.assert_close(packed.prompt_embeds("Where is the ferry?", codes, ()), prompt)
    for selection in plain.selections:
        np.testing.assert_allclose(
            packed.embed_queries(["a ferry"], selection),
            plain.embed_queries(["a ferry"], selection),
            atol=1e-5,
        )
    np.testing.assert_allclose(
        packed.rerank(["a ferry"], [codes], [[0.1, 0.2, 0.3]]),
        plain.rerank(["a ferry"], [codes], [[0.1, 0.2, 0.3]]),
        atol=1e-5,
    )


def test_a_server_without_memory_for_copies_reads_plain_weights(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(home=tmp_path, model=str(tiny_model), device="cpu", slots=4, z_dim=32)
    monkeypatch.setattr(ReadingModel, "bytes_to_pack", 101)
    for free, packs in ((400, False), (404, True)):
        monkeypatch.setattr(transformers_engine, "spare_memory", lambda _device, free=free: free)
        layers = {type(module) for module in load_reading_model(settings).lm.modules()}
        assert (PackedLinear in layers) == packs


@pytest.mark.parametrize(("dtype", "packs"), [("auto", True), ("float32", False)])
def test_a_server_packs_unless_float32_was_asked_for(
    tiny_model: Path, tmp_path: Path, dtype: str, packs: bool
) -> None:
    settings = Settings(
        home=tmp_path, model=str(tiny_model), device="cpu", dtype=dtype, slots=4, z_dim=32
    )
    layers = {type(module) for module in load_reading_model(settings).lm.modules()}
    assert (PackedLinear in layers) == packs
