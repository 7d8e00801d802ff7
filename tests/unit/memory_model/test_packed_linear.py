"""Packed layers multiply as plain ones do: in bf16 to the bit, else from float16 weights."""

from __future__ import annotations

import gc
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from memory_model import packed_linear
from memory_model.base import multiplies_bfloat16
from memory_model.packed_linear import PackedLinear, pack_linears
from memory_model.runtime import ReadingModel, open_bundle
from paramem.settings import Settings
from server.engine.transformers_engine import load_reading_model

MAPS = Path("/proc/self/maps")

pytestmark = pytest.mark.skipif(
    "fbgemm" not in torch.backends.quantized.supported_engines, reason="packs on x86 CPUs only"
)

needs_bf16 = pytest.mark.skipif(
    not multiplies_bfloat16(), reason="this CPU has no products of bf16"
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


@needs_bf16
@pytest.mark.parametrize("shape", [(1, 24), (200, 24), (3, 7, 24), (0, 24)])
@pytest.mark.parametrize("bias", [True, False])
@torch.inference_mode()
def test_a_packed_layer_in_bfloat16_is_the_plain_one_to_the_bit(
    shape: tuple[int, ...], bias: bool
) -> None:
    linear = nn.Linear(24, 40, bias=bias, dtype=torch.bfloat16)
    inputs = torch.randn(shape, dtype=torch.bfloat16)
    assert torch.equal(PackedLinear(linear)(inputs), linear(inputs))


@pytest.mark.parametrize(
    "dtype", [torch.float32, pytest.param(torch.bfloat16, marks=needs_bf16)], ids=str
)
@torch.inference_mode()
def test_inputs_need_not_be_contiguous(dtype: torch.dtype) -> None:
    linear = nn.Linear(24, 40, dtype=dtype)
    round_to_half(linear)
    inputs = torch.randn(2, 24, 5, dtype=dtype).transpose(1, 2)
    torch.testing.assert_close(PackedLinear(linear)(inputs), linear(inputs.contiguous()))


@torch.inference_mode()
def test_a_layer_that_float16_would_cut_off_stays_plain() -> None:
    module = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    module[0].weight[3, 5] = -70_000.0
    pack_linears(module, may_round=True)
    assert [type(layer) for layer in module] == [nn.Linear, PackedLinear]


class Quantised(nn.Linear):
    """As bitsandbytes' layers are: linear by name, with weights of another kind."""


@pytest.mark.parametrize("may_round", [True, False])
@pytest.mark.parametrize("native", [pytest.param(True, marks=needs_bf16), False])
def test_only_plain_layers_that_are_faster_so_are_packed(
    monkeypatch: pytest.MonkeyPatch, may_round: bool, native: bool
) -> None:
    module = nn.ModuleDict(
        {
            "plain": nn.Linear(8, 8),
            "inside": nn.Sequential(nn.Linear(8, 8)),
            "brief": nn.Linear(8, 8, dtype=torch.bfloat16),
            "shorter": nn.Linear(8, 8, dtype=torch.float16),
            "quantised": Quantised(8, 8),
        }
    )
    monkeypatch.setattr(packed_linear, "multiplies_bfloat16", lambda: native)
    pack_linears(module, may_round=may_round)
    packed = {name for name, part in module.named_modules() if isinstance(part, PackedLinear)}
    expected = {"plain", "inside.0"} if may_round else set()
    assert packed == (expected | {"brief"} if native else expected)


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
    for reading in (plain, packed):
        for head in (*reading.bundle.compressor.modules(), *reading.bundle.selector.modules()):
            if isinstance(head, nn.Linear):
                round_to_half(head)
    packed.pack(may_round=True)
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
        packed.query_vectors(["a ferry"]), plain.query_vectors(["a ferry"]), atol=1e-5
    )
    np.testing.assert_allclose(packed.slot_vectors(codes), plain.slot_vectors(codes), atol=1e-3)


@pytest.mark.skipif(not MAPS.exists(), reason="/proc tells it on Linux only")
def test_a_packed_model_keeps_nothing_of_its_checkpoints_file(
    tiny_model: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(tiny_model, tmp_path / "model")
    settings = Settings(home=tmp_path, model=str(copy), device="cpu", slots=4, z_dim=32)
    model = ReadingModel(open_bundle(settings))
    assert str(copy) in MAPS.read_text()  # weights are read where the file is mapped
    model.pack(may_round=True)
    gc.collect()
    assert str(copy) not in MAPS.read_text()


@pytest.mark.parametrize(("dtype", "packs"), [("auto", True), ("float32", False)])
def test_a_server_packs_unless_float32_was_asked_for(
    tiny_model: Path, tmp_path: Path, dtype: str, packs: bool
) -> None:
    settings = Settings(
        home=tmp_path, model=str(tiny_model), device="cpu", dtype=dtype, slots=4, z_dim=32
    )
    layers = {type(module) for module in load_reading_model(settings).lm.modules()}
    assert (PackedLinear in layers) == packs
