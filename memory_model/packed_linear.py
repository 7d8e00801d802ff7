"""Linear layers whose weights lie in half precision as a CPU reads them fastest.

Decoding reads every weight once a token, so time is bytes. In float32, half the bytes are nearly
twice the speed: a step of SmolLM2-135M takes 0.66 of the time for one row and 0.71 for eight, a
prompt of a hundred positions 0.85 (against oneDNN's blocks of float32, experiments/LOG.md). In
bf16, oneDNN orders the weights anew at every product, which a prompt does not notice and a token
does: up to FEW_ROWS rows are multiplied as in float32, from a second copy of the weights.

Checkpoints hold bf16 weights, which float16 keeps to the bit but for the tiniest; those that a
merged adapter changed in float32 are rounded to 11 bits, where bf16 has 8.

FBGEMM (Khudia et al. 2021, arXiv 2101.05615), by the operators behind torch's dynamic float16
quantisation.

Symbols: n = outputs, k = inputs.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import linear as multiply

FEW_ROWS = 12
"""Of a product: 1.2 to 1.6 times as fast up to 8, 1.1 at 12, slower from 16 on."""


class PackedLinear(nn.Module):
    """y = x Wᵀ + b. Cannot be trained or saved."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach()
        bias = None if linear.bias is None else linear.bias.detach()  # (n,)
        self._plain = None if weight.dtype is torch.float32 else (weight, bias)
        # a plain attribute: a weight in FBGEMM's layout is not a tensor that modules can move
        self._packed = torch.ops.quantized.linear_prepack_fp16(
            weight.float(), None if bias is None else bias.float()
        )

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(…, k) -> (…, n), in the layer's dtype"""
        if self._plain is not None and inputs.shape[:-1].numel() > FEW_ROWS:
            return multiply(inputs, *self._plain)
        multiplied = torch.ops.quantized.linear_dynamic_fp16(inputs.float(), self._packed)
        outputs: torch.Tensor = multiplied.to(inputs.dtype)
        return outputs


def pack_linears(module: nn.Module) -> None:
    """Replace the linear layers inside ``module`` that are faster so: on an x86 CPU."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and _gains(child.weight):
                setattr(parent, name, PackedLinear(child))


def bytes_to_pack(module: nn.Module) -> int:
    """How much memory :func:`pack_linears` takes: a copy of the weights in bf16 on a CPU."""
    weights = [child.weight for child in module.modules() if type(child) is nn.Linear]
    return sum(w.nbytes for w in weights if w.device.type == "cpu" and w.dtype is torch.bfloat16)


def _gains(weight: torch.Tensor) -> bool:
    return (
        weight.device.type == "cpu"
        and weight.dtype in (torch.float32, torch.bfloat16)
        and "fbgemm" in torch.backends.quantized.supported_engines
        and bool(weight.abs().max() <= torch.finfo(torch.float16).max)  # else it would be cut off
    )
