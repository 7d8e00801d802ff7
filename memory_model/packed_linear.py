"""Linear layers whose weights lie as a CPU reads them fastest.

Decoding reads every weight once a token, so time is bytes and the order that they lie in.

- bf16, where the CPU multiplies it: oneDNN's blocks, which it otherwise makes of a plain weight at
  every product. To the bit the same; a step of SmolLM2-135M takes 0.63 of the time for one row
  and 0.68 for eight, a prompt of a hundred positions 0.75 to 0.9.
- float32: float16, multiplied in float32. A step takes 0.66 of the time for one row and 0.71 for
  eight, such a prompt 0.85. Checkpoints hold bf16 weights, which float16 keeps to the bit but for
  the tiniest; those that a merged adapter changed are rounded to 11 bits, where bf16 has 8.

oneDNN by the operators that torch.compile freezes weights with; FBGEMM (Khudia et al. 2021, arXiv
2101.05615) by those behind torch's dynamic float16 quantisation. Numbers: experiments/LOG.md.

Symbols: n = outputs, k = inputs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from memory_model.base import multiplies_bfloat16

Multiply = Callable[[torch.Tensor], torch.Tensor]


class PackedLinear(nn.Module):
    """y = x Wᵀ + b. Cannot be trained or saved."""

    def __init__(self, linear: nn.Linear) -> None:
        """Raises: KeyError for weights of another dtype than the two above."""
        super().__init__()
        # a plain attribute: what is packed is not a tensor that modules can move
        self._multiply = packed_product(linear)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(…, k) -> (…, n), both in the layer's dtype"""
        return self._multiply(inputs)


def packed_product(*linears: nn.Linear) -> Multiply:
    """x -> the outputs x Wᵀ + b of layers of one form, one behind another, in one product.

    Raises: KeyError for weights of another dtype than the two above.
    """
    weight = torch.cat([linear.weight.detach() for linear in linears])  # (n, k)
    biases = [linear.bias.detach() for linear in linears if linear.bias is not None]
    return PACK[weight.dtype](weight, torch.cat(biases) if biases else None)


def _pack_blocks(weight: torch.Tensor, bias: torch.Tensor | None) -> Multiply:
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)
    multiply = torch.ops.mkldnn._linear_pointwise
    return lambda inputs: multiply(inputs, packed, bias, "none", [], "")


def _pack_float16(weight: torch.Tensor, bias: torch.Tensor | None) -> Multiply:
    packed = torch.ops.quantized.linear_prepack_fp16(weight, bias)
    multiply = torch.ops.quantized.linear_dynamic_fp16
    return lambda inputs: multiply(inputs, packed)


PACK = {torch.bfloat16: _pack_blocks, torch.float32: _pack_float16}


def pack_linears(module: nn.Module, *, may_round: bool) -> None:
    """Replace the linear layers inside ``module`` that are faster so: on an x86 CPU.

    Args:
        may_round: float32 to float16.
    """
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and gains(child.weight, may_round):
                setattr(parent, name, PackedLinear(child))


def gains(weight: torch.Tensor, may_round: bool) -> bool:
    if weight.device.type != "cpu" or "fbgemm" not in torch.backends.quantized.supported_engines:
        return False  # FBGEMM is there on x86 only, and nothing here was measured elsewhere
    if weight.dtype is torch.bfloat16:
        return multiplies_bfloat16()
    largest = torch.finfo(torch.float16).max  # beyond it float16 would cut off
    return may_round and weight.dtype is torch.float32 and bool(weight.abs().max() <= largest)
