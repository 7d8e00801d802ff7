"""The quantisers of the bundles this process has loaded: what rq codes are written and read with.

They are part of a bundle, not of the store: like the LLM, whoever opens the store brings them.
"""

from __future__ import annotations

from memory_store.errors import QuantiserMissingError
from memory_store.records import CodeFormat, MemorySpec
from memory_store.slot_quantiser import SlotQuantiser


class Quantisers:
    """By the fingerprint of their bundle."""

    def __init__(self) -> None:
        self._by_fingerprint: dict[str, SlotQuantiser] = {}

    def register(self, fingerprint: str, quantiser: SlotQuantiser) -> None:
        """Make a bundle's quantiser known."""
        self._by_fingerprint[fingerprint] = quantiser

    def of(self, spec: MemorySpec) -> SlotQuantiser | None:
        """What memories of this kind are written and read with; None if they need none.

        Raises:
            QuantiserMissingError: they need that of a bundle that is not loaded.
        """
        if spec.code_format is not CodeFormat.RQ:
            return None
        found = self._by_fingerprint.get(spec.fingerprint)
        if found is None:
            raise QuantiserMissingError(
                f"code_format rq needs the quantiser of bundle {spec.fingerprint}, and none is "
                "loaded: choose bf16, int8 or int4, or load a bundle with codebooks.safetensors",
                param="code_format",
            )
        return found
