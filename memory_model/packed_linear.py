"""Linear layers whose weights lie as oneDNN multiplies them.

``nn.Linear`` hands a weight in rows to the BLAS, which copies it into blocks at every call. For a
prompt of memories (about a hundred positions) and for a few requests that decode together, that is
a large part of the multiplication: laid out once, a forward of SmolLM2-135M in float32 takes 0.83
of the time over 100 positions, 0.6 for eight single tokens, and the same over 600
(experiments/LOG.md). What torch.compile's freezing does, without compiling.

Symbols: n = outputs, k = inputs.
"""

from __future__ import annotations

import torch
from torch import nn

ROWS = 128
"""For which number of inputs the blocks are chosen; they serve any."""


class PackedLinear(nn.Module):
    """y = x Wᵀ + b. Cannot be trained or saved."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        # plain attributes: a weight in oneDNN's layout is not a tensor that modules can move
        self._weight = torch.ops.mkldnn._reorder_linear_weight(
            linear.weight.detach(), ROWS
        )  # (n, k)
        self._bias = None if linear.bias is None else linear.bias.detach()  # (n,)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(…, k) -> (…, n)"""
        outputs: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            inputs, self._weight, self._bias, "none", [], ""
        )
        return outputs


def pack_linears(module: nn.Module) -> None:
    """Replace the linear layers inside ``module`` where that is faster: in float32 on a CPU."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and _gains(child.weight):
                setattr(parent, name, PackedLinear(child))


def _gains(weight: torch.Tensor) -> bool:
    return (
        weight.device.type == "cpu"
        and weight.dtype is torch.float32
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    )
