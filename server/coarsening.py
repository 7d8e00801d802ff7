"""Memories read at two resolutions: the best one whole, the others in fewer slots.

What an LLM gains from the memories after the first is mostly that they are there to be compared
with; what it pays for them are positions. A code is nearly a mean over the tokens of its window,
so the mean of neighbouring codes is nearly the code of the window that they form together: a memory
is coarsened when it is read, nothing is stored twice. (What that costs and saves: LOG.md.)

Symbols: K = memories, m = slots, d = code dimension.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from memory_store.records import FloatArray


def coarsen(codes: Sequence[FloatArray], slots: int | None) -> list[FloatArray]:
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


def mean_windows(code: FloatArray, slots: int) -> FloatArray:
    """Means over windows of neighbouring slots, as even as can be. (m, d) -> (slots, d)"""
    count = len(code)
    if count <= slots:
        return code
    starts = np.arange(slots) * count // slots  # (slots,)
    sizes = np.diff(starts, append=count).astype(np.float32)
    sums: FloatArray = np.add.reduceat(code, starts, axis=0)
    return sums / sizes[:, None]
