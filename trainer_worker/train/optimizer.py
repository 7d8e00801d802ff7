"""AdamW over parameters held in bf16: updates accumulate in float32 copies.

An update of a trained weight is usually smaller than bf16 can add to it; on a CPU the float32
product of an unconverted adapter costs more than the bf16 LLM around it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


class MasterAdamW:
    """AdamW with float32 master weights; each group is clipped by its own norm."""

    def __init__(self, groups: Iterable[tuple[list[nn.Parameter], float]], *, clip: float) -> None:
        """``groups``: parameters and their learning-rate factor."""
        self._parameters: list[nn.Parameter] = []
        self._masters: list[nn.Parameter] = []
        self._clip = clip
        options: list[dict[str, Any]] = []
        for parameters, factor in groups:
            masters = [nn.Parameter(parameter.detach().float().clone()) for parameter in parameters]
            self._parameters += parameters
            self._masters += masters
            options.append({"params": masters, "factor": factor})
        self._adam = torch.optim.AdamW(options, lr=0.0, betas=(0.9, 0.98), weight_decay=0.0)

    def step(self, learning_rate: float) -> float:
        """Apply and clear the gradients.

        Returns: the largest norm of a group before clipping; NaN = nothing was changed.
        """
        for master, parameter in zip(self._masters, self._parameters, strict=True):
            master.grad = None if parameter.grad is None else parameter.grad.float()
            parameter.grad = None
        norms = [
            float(nn.utils.clip_grad_norm_(group["params"], self._clip))
            for group in self._adam.param_groups
        ]
        norm = max(norms)
        if not math.isfinite(sum(norms)):
            return math.nan
        for group in self._adam.param_groups:
            group["lr"] = learning_rate * group["factor"]
        self._adam.step()
        with torch.no_grad():
            for master, parameter in zip(self._masters, self._parameters, strict=True):
                parameter.copy_(master)
        return norm
