"""What a code format makes of codes.

Symbols: m = slots, d = code dimension.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from memory_store.records import CodeFormat
from memory_store.shards.codec import decode, encode
from memory_store.slot_quantiser import SlotQuantiser

Rounding = Callable[[torch.Tensor], torch.Tensor]
"""(…, m, d) float32 -> (…, m, d) float32"""


def as_stored(code_format: CodeFormat, quantiser: SlotQuantiser | None) -> Rounding:
    """What comes back from a shard of this format.

    Args:
        quantiser: of the bundle, for rq.

    The rounding raises: InvalidMemoryError: see :func:`memory_store.shards.codec.encode`.
    """

    def rounding(codes: torch.Tensor) -> torch.Tensor:
        read = decode(encode(codes.cpu().numpy(), code_format, quantiser), quantiser)
        return torch.from_numpy(read).to(codes.device)

    return rounding
