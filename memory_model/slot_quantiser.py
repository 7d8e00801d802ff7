"""The quantiser for a store, which knows arrays and bytes but no torch.

Symbols: m = slots, S = bytes a slot, d = code dimension.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from memory_model.quantiser import Quantiser


class SlotQuantiser:
    """Implements ``memory_store.SlotQuantiser``."""

    def __init__(self, quantiser: Quantiser) -> None:
        self._quantiser = quantiser

    @property
    def slot_bytes(self) -> int:
        return self._quantiser.slot_bytes

    def encode(self, codes: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
        """(…, m, d) -> (…, m, S)"""
        tensor = torch.from_numpy(np.ascontiguousarray(codes)).to(self._device)
        names: npt.NDArray[np.uint8] = self._quantiser.encode(tensor).cpu().numpy()
        return names

    def decode(self, names: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """(…, m, S) -> (…, m, d)"""
        # a row of a shard is read-only memory, of which torch makes no tensor without a warning
        tensor = torch.from_numpy(np.array(names)).to(self._device)
        codes: npt.NDArray[np.float32] = self._quantiser.decode(tensor).cpu().numpy()
        return codes

    @property
    def _device(self) -> torch.device:
        return self._quantiser.codebooks.device
