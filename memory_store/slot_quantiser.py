"""The ``SlotQuantiser`` seam: what makes bytes of the slots of rq codes.

Symbols: m = slots, S = bytes a slot, d = code dimension.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy.typing as npt

from memory_store.records import FloatArray


class SlotQuantiser(Protocol):
    """Makes S bytes of a slot and, nearly, the slot of the bytes. Used by several threads."""

    @property
    def slot_bytes(self) -> int: ...

    def encode(self, codes: FloatArray) -> npt.NDArray[Any]:
        """(…, m, d) float32 -> (…, m, S) uint8"""
        ...

    def decode(self, names: npt.NDArray[Any]) -> FloatArray:
        """(…, m, S) uint8 -> (…, m, d) float32"""
        ...
