"""Linear layers whose weights are kept in half precision and multiplied in float32.

For CPUs without bf16 products. Decoding reads every weight once a token, so half the bytes are
nearly twice the speed: a step of SmolLM2-135M takes 0.66 of the time for one row and 0.71 for
eight, a prompt of a hundred positions 0.85 (against oneDNN's blocks of float32, experiments/
LOG.md). Checkpoints hold bf16 weights, which float16 keeps to the bit but for the tiniest; those
that a merged adapter changed are rounded to 11 bits, where a CPU with bf16 products has 8.

FBGEMM (Khudia et al. 2021, arXiv 2101.05615), by the operators behind torch's dynamic float16
quantisation.

Symbols: n = outputs, k = inputs.
"""

from __future__ import annotations

import torch
from torch import nn


class PackedLinear(nn.Module):
    """y = x Wᵀ + b. Cannot be trained or saved."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        bias = None if linear.bias is None else linear.bias.detach()  # (n,)
        # a plain attribute: a weight in FBGEMM's layout is not a tensor that modules can move
        self._packed = torch.ops.quantized.linear_prepack_fp16(linear.weight.detach(), bias)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(…, k) float32 -> (…, n) float32"""
        outputs: torch.Tensor = torch.ops.quantized.linear_dynamic_fp16(inputs, self._packed)
        return outputs


def pack_linears(module: nn.Module) -> None:
    """Replace the linear layers inside ``module`` that are faster so: float32 on an x86 CPU."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and _gains(child.weight):
                setattr(parent, name, PackedLinear(child))


def _gains(weight: torch.Tensor) -> bool:
    return (
        weight.device.type == "cpu"
        and weight.dtype is torch.float32
        and "fbgemm" in torch.backends.quantized.supported_engines
        and bool(weight.abs().max() <= torch.finfo(torch.float16).max)  # else it would be cut off
    )
