"""A Llama of fewer and larger operators, which computes the same, in bf16 to the bit.

On a CPU a token is not bytes alone. Of the 17 ms that one takes SmolLM2-135M with packed weights, 5
lie between the products: thousands of operators on a few hundred numbers each (experiments/LOG.md).
Here layers that read the same states are one product (query, key and value; gate and up), queries
and keys are rotated together, and nothing is a module that need not be: 13 ms.

Rotary angles stay those of transformers; so do attention, masks and caches, unless another
attention is given.

Symbols: B = rows, T = positions, h = hidden size, q, k = query heads, key heads, e = a head's size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import Cache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaModel, LlamaRMSNorm

from memory_model.packed_linear import gains, pack_linears, packed_product

Rotation = tuple[torch.Tensor, torch.Tensor]

Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Attention of a layer: its number, queries (B, q, T, e), keys and values (B, k, T, e) of the
positions that are computed -> (B, T, q, e)."""


class PackedLlama(nn.Module):
    """Stands where a ``LlamaModel`` stood. Cannot be trained or saved."""

    def __init__(self, model: LlamaModel) -> None:
        """Takes the layers out of ``model``, each as soon as it is packed: never two of all."""
        super().__init__()
        self.config = model.config
        self.embed_tokens = model.embed_tokens
        self.rotary_emb = model.rotary_emb
        self._layers = [PackedLlamaLayer(model.layers.pop(0)) for _ in range(len(model.layers))]
        self.norm = model.norm

    def get_input_embeddings(self) -> nn.Module:
        embeddings: nn.Module = self.embed_tokens
        return embeddings

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        *,
        inputs_embeds: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool = True,
        attend: Attend | None = None,
    ) -> BaseModelOutputWithPast:
        """As ``LlamaModel.forward``, of which it takes these.

        Args:
            use_cache: of a cache that is given; none is made.
            attend: instead of transformers' attention, mask and cache.

        Returns: ``last_hidden_state`` (B, T, h).
        """
        states = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if position_ids is None:
            first = past_key_values.get_seq_length() if past_key_values is not None else 0
            position_ids = torch.arange(first, first + states.shape[1])[None]  # (1, T)
        if attend is None and (attention_mask is None or attention_mask.ndim != 4):
            attention_mask = create_causal_mask(
                config=self.config,
                inputs_embeds=states,
                attention_mask=attention_mask,
                past_key_values=past_key_values,
                position_ids=position_ids,
            )
        cosines, sines = self.rotary_emb(states, position_ids)  # (·, T, e)
        # half of a head is rotated by minus the sine: once here, not in every layer
        half = sines.shape[-1] // 2
        sines = torch.cat((-sines[..., :half], sines[..., half:]), dim=-1)
        rotation = cosines[:, :, None], sines[:, :, None]  # (·, T, 1, e)
        for layer in self._layers:
            states = layer(states, rotation, attention_mask, past_key_values, attend)
        return BaseModelOutputWithPast(
            last_hidden_state=self.norm(states), past_key_values=past_key_values
        )


class PackedLlamaLayer:
    """One layer of it (Touvron et al. 2023, arXiv 2302.13971)."""

    is_causal = True  # this and the next attribute are what transformers' attention asks for

    def __init__(self, layer: LlamaDecoderLayer) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.num_key_value_groups = attention.num_key_value_groups
        self._size = attention.head_dim
        self._queries = attention.q_proj.out_features // self._size
        self._rotated = self._queries + attention.k_proj.out_features // self._size
        self._number = attention.layer_idx
        self._qkv = packed_product(attention.q_proj, attention.k_proj, attention.v_proj)
        self._output = packed_product(attention.o_proj)
        self._gate_up = packed_product(mlp.gate_proj, mlp.up_proj)
        self._activation = mlp.act_fn
        self._down = packed_product(mlp.down_proj)
        self._attention_norm = _weight_and_epsilon(layer.input_layernorm)
        self._mlp_norm = _weight_and_epsilon(layer.post_attention_layernorm)

    def __call__(
        self,
        states: torch.Tensor,
        rotation: Rotation,
        attention_mask: torch.Tensor | None,
        past_key_values: Cache | None,
        attend: Attend | None,
    ) -> torch.Tensor:
        """(B, T, h) -> (B, T, h)"""
        heads = self._qkv(_normed(states, *self._attention_norm))  # (B, T, (q + 2k) e)
        heads = heads.view(*states.shape[:-1], -1, self._size)  # (B, T, q + 2k, e)
        rotated = _rotate(heads[:, :, : self._rotated], rotation)  # (B, T, q + k, e)
        rotated = rotated.transpose(1, 2)
        queries, keys = rotated[:, : self._queries], rotated[:, self._queries :]
        values = heads[:, :, self._rotated :].transpose(1, 2)  # (B, k, T, e)
        if attend is not None:
            attended = attend(self._number, queries, keys, values)  # (B, T, q, e)
        else:
            if past_key_values is not None:
                keys, values = past_key_values.update(keys, values, self._number)
            attended, _ = sdpa_attention_forward(self, queries, keys, values, attention_mask)
        states = states + self._output(attended.flatten(2))
        gate, up = self._gate_up(_normed(states, *self._mlp_norm)).chunk(2, dim=-1)
        return states + self._down(self._activation(gate) * up)


def pack_model(model: nn.Module, *, may_round: bool) -> nn.Module:
    """The same model, its weights packed; use it instead of ``model``, which is used up.

    Args:
        model: with an output head or without; of any kind, what is no Llama has its linear layers
            packed only.
        may_round: float32 to float16.
    """
    if _is_packable(model, may_round):
        return PackedLlama(model)
    for name, child in model.named_children():
        if _is_packable(child, may_round):
            setattr(model, name, PackedLlama(child))
    pack_linears(model, may_round=may_round)
    return model


def _is_packable(model: Any, may_round: bool) -> bool:
    if type(model) is not LlamaModel or model.config._attn_implementation != "sdpa":
        return False
    projections = [part for name, part in model.named_modules() if name.endswith("_proj")]
    return all(type(part) is nn.Linear and gains(part.weight, may_round) for part in projections)


def _weight_and_epsilon(norm: LlamaRMSNorm) -> tuple[torch.Tensor, float]:
    return norm.weight.detach().clone(), norm.variance_epsilon


def _normed(states: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """RMS norm in float32, rounded where transformers rounds. (…, h) -> (…, h)"""
    exact = states.float()
    variance = exact.pow(2).mean(-1, keepdim=True)
    return weight * (exact * torch.rsqrt(variance + epsilon)).to(states.dtype)


def _rotate(heads: torch.Tensor, rotation: Rotation) -> torch.Tensor:
    """Rotary positions (Su et al. 2021, arXiv 2104.09864). (B, T, ·, e) -> (B, T, ·, e)"""
    cosines, sines = rotation
    half = heads.shape[-1] // 2
    swapped = torch.cat((heads[..., half:], heads[..., :half]), dim=-1)
    return heads * cosines + swapped * sines
