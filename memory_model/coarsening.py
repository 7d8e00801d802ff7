"""Memories read at two resolutions: the best one whole, the others in fewer slots.

What an LLM gains from the memories after the first is mostly that they are there to be compared
with; what it pays for them are positions. A code is nearly a mean over the tokens of its window,
so the mean of neighbouring codes is nearly the code of the window that they form together: a memory
is coarsened when it is read, nothing is stored twice. (What that costs and saves: LOG.md.)

Works on numpy's arrays and on torch's tensors, without torch where there are none.
Symbols: K = memories, m = slots, d = code dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

Code = TypeVar("Code", bound=Any)
"""(m, d) float32, an array or a tensor."""


def coarsen(codes: Sequence[Code], slots: int | None) -> list[Code]:
    """What is read of memories, best first.

    Args:
        codes: K of (m, d).
        slots: of each memory after the first, at least 1; those that have no more stay as they
            are. None = all.

    Returns: K of (m_i, d), the first of them whole.
    """
    if slots is None:
        return list(codes)
    return [*codes[:1], *(mean_windows(code, slots) for code in codes[1:])]


def mean_windows(code: Code, slots: int) -> Code:
    """Means over windows of neighbouring slots, as even as can be. (m, d) -> (slots, d)"""
    if len(code) <= slots:
        return code
    weights = _weights(len(code), slots)
    if isinstance(code, np.ndarray):
        return weights @ code  # type: ignore[return-value]
    return code.new_tensor(weights) @ code  # type: ignore[no-any-return]


@lru_cache(maxsize=32)
def _weights(count: int, slots: int) -> npt.NDArray[np.float32]:
    """Of each window's mean. Returns: (slots, count)"""
    ends = np.arange(1, slots + 1) * count // slots  # (slots,)
    starts = np.concatenate([[0], ends[:-1]])
    slot = np.arange(count)
    inside = (slot >= starts[:, None]) & (slot < ends[:, None])  # (slots, count)
    weights: npt.NDArray[np.float32] = (inside / (ends - starts)[:, None]).astype(np.float32)
    return weights
