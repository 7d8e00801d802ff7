"""A packed Llama is the plain one: in bf16 to the bit, else up to the rounding of its weights."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from memory_model.base import multiplies_bfloat16
from memory_model.encoder import first_layers
from memory_model.packed_linear import PackedLinear
from memory_model.packed_llama import PackedLlama, pack_model

pytestmark = pytest.mark.skipif(
    "fbgemm" not in torch.backends.quantized.supported_engines, reason="packs on x86 CPUs only"
)

SHAPE: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "max_position_embeddings": 256,
}
KINDS: dict[str, dict[str, Any]] = {
    "shared keys": {"num_key_value_heads": 2},
    "a key head each": {"num_key_value_heads": 6},
    "biases": {"num_key_value_heads": 2, "attention_bias": True, "mlp_bias": True},
    "own output head": {"num_key_value_heads": 2, "tie_word_embeddings": False},
    "Llama 3.1's angles": {
        "num_key_value_heads": 2,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    },
}
DTYPES = [
    pytest.param(
        torch.bfloat16,
        marks=pytest.mark.skipif(
            not multiplies_bfloat16(), reason="this CPU has no products of bf16"
        ),
    ),
    torch.float32,
]
each_kind = pytest.mark.parametrize("kind", KINDS)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def random_llama(kind: str, dtype: torch.dtype) -> Any:
    """With weights that float16 holds to the bit."""
    torch.manual_seed(0)
    lm = LlamaForCausalLM(LlamaConfig(**SHAPE, **KINDS[kind])).eval()
    with torch.no_grad():
        for parameter in lm.parameters():
            if parameter.ndim == 1:  # norms' ones and biases' zeros would hide what they do
                parameter.add_(torch.randn_like(parameter))
            parameter.copy_(parameter.half())
    return lm.to(dtype)


def pair(kind: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """Plain and packed."""
    plain = random_llama(kind, dtype)
    packed = pack_model(copy.deepcopy(plain), may_round=True)
    assert isinstance(packed.model, PackedLlama)
    return plain, packed


def same(packed: torch.Tensor, plain: torch.Tensor) -> None:
    if plain.dtype is torch.bfloat16:
        assert torch.equal(packed, plain)
    else:
        torch.testing.assert_close(packed, plain)


@each_kind
@each_dtype
@torch.inference_mode()
def test_every_position_has_the_logits_of_the_plain_model(kind: str, dtype: torch.dtype) -> None:
    plain, packed = pair(kind, dtype)
    tokens = torch.randint(97, (2, 70))
    same(packed(tokens).logits, plain(tokens).logits)
    embeds = torch.randn(1, 9, 48, dtype=dtype)
    same(packed(inputs_embeds=embeds).logits, plain(inputs_embeds=embeds).logits)


@each_kind
@each_dtype
@torch.inference_mode()
def test_positions_behind_a_cache_have_them_too(kind: str, dtype: torch.dtype) -> None:
    plain, packed = pair(kind, dtype)
    caches = DynamicCache(), DynamicCache()
    for length in (40, 1, 7):
        tokens = torch.randint(97, (2, length))
        expected, given = (
            lm(tokens, past_key_values=cache, use_cache=True).logits
            for lm, cache in zip((plain, packed), caches, strict=True)
        )
        same(given, expected)


@each_dtype
@torch.inference_mode()
def test_it_generates_behind_padding_on_the_left(dtype: torch.dtype) -> None:
    plain, packed = pair("shared keys", dtype)
    mask = torch.ones(2, 12, dtype=torch.long)
    mask[0, :5] = 0
    options: dict[str, Any] = {
        "inputs_embeds": torch.randn(2, 12, 48, dtype=dtype),
        "attention_mask": mask,
        "max_new_tokens": 10,
        "do_sample": False,
        "pad_token_id": 0,
        "eos_token_id": None,
    }
    assert torch.equal(packed.generate(**options), plain.generate(**options))


@each_dtype
@torch.inference_mode()
def test_first_layers_read_both_ways_under_a_mask(dtype: torch.dtype) -> None:
    lm = random_llama("shared keys", dtype)
    plain = first_layers(lm, 2, own_weights=True)
    packed = pack_model(first_layers(lm, 2, own_weights=True), may_round=True)
    assert isinstance(packed, PackedLlama)
    assert packed.get_input_embeddings() is lm.get_input_embeddings()
    mask = torch.zeros(2, 1, 11, 11, dtype=dtype)
    mask[1, :, :, 7:] = torch.finfo(dtype).min
    embeds = torch.randn(2, 11, 48, dtype=dtype)
    given = {"inputs_embeds": embeds, "attention_mask": mask, "use_cache": False}
    same(packed(**given).last_hidden_state, plain(**given).last_hidden_state)


@torch.inference_mode()
def test_layers_that_are_packed_are_taken_out_of_the_plain_model() -> None:
    lm = random_llama("shared keys", torch.float32)
    body = lm.model
    pack_model(lm, may_round=True)
    assert len(body.layers) == 0


def test_another_kind_of_model_has_its_linear_layers_packed_only() -> None:
    lm = Qwen2ForCausalLM(Qwen2Config(**SHAPE, num_key_value_heads=2))
    assert pack_model(lm, may_round=True) is lm
    kinds = {type(module) for module in lm.modules()}
    assert PackedLinear in kinds
    assert not kinds & {PackedLlama, nn.Linear}


def test_a_llama_with_a_layer_that_cannot_be_packed_keeps_its_form() -> None:
    lm = random_llama("shared keys", torch.float32)
    with torch.no_grad():
        lm.model.layers[1].mlp.up_proj.weight[0, 0] = 70_000.0  # float16 would cut it off
    pack_model(lm, may_round=True)
    assert type(lm.model.layers[1].mlp.up_proj) is nn.Linear
    assert type(lm.model.layers[0].mlp.up_proj) is PackedLinear


def test_weights_that_may_not_be_rounded_stay_plain() -> None:
    lm = random_llama("shared keys", torch.float32)
    pack_model(lm, may_round=False)
    assert not {type(module) for module in lm.modules()} & {PackedLlama, PackedLinear}


def test_what_it_cannot_give_is_refused() -> None:
    _, packed = pair("shared keys", torch.float32)
    with pytest.raises(TypeError, match="output_hidden_states"):
        packed(torch.zeros(1, 3, dtype=torch.long), output_hidden_states=True)
