"""Packed layers multiply as plain ones do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from memory_model.packed_linear import PackedLinear, pack_linears
from memory_model.runtime import ReadingModel, open_bundle
from paramem.settings import Settings


@pytest.mark.parametrize("shape", [(1, 24), (200, 24), (3, 7, 24)])
@pytest.mark.parametrize("bias", [True, False])
@torch.inference_mode()
def test_a_packed_layer_gives_what_the_plain_one_gives(shape: tuple[int, ...], bias: bool) -> None:
    linear = nn.Linear(24, 40, bias=bias)
    inputs = torch.randn(shape)
    torch.testing.assert_close(PackedLinear(linear)(inputs), linear(inputs))


@torch.inference_mode()
def test_inputs_need_not_be_contiguous() -> None:
    linear = nn.Linear(24, 40)
    inputs = torch.randn(2, 24, 5).transpose(1, 2)
    torch.testing.assert_close(PackedLinear(linear)(inputs), linear(inputs))


class Quantised(nn.Linear):
    """As bitsandbytes' layers are: linear by name, with weights of another kind."""


def test_only_plain_layers_in_float32_are_packed() -> None:
    module = nn.ModuleDict(
        {
            "plain": nn.Linear(8, 8),
            "inside": nn.Sequential(nn.Linear(8, 8)),
            "brief": nn.Linear(8, 8, dtype=torch.bfloat16),
            "quantised": Quantised(8, 8),
        }
    )
    pack_linears(module)
    packed = {name for name, part in module.named_modules() if isinstance(part, PackedLinear)}
    assert packed == {"plain", "inside.0"}


@torch.inference_mode()
def test_a_packed_reading_model_selects_and_reads_as_before(
    tiny_model: Path, tmp_path: Path
) -> None:
    settings = Settings(
        home=tmp_path, model=str(tiny_model), device="cpu", dtype="float32", slots=4, z_dim=32
    )
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
            packed.embed_query("a ferry", selection),
            plain.embed_query("a ferry", selection),
            atol=1e-5,
        )
    np.testing.assert_allclose(
        packed.rerank("a ferry", codes, [0.1, 0.2, 0.3]),
        plain.rerank("a ferry", codes, [0.1, 0.2, 0.3]),
        atol=1e-5,
    )
