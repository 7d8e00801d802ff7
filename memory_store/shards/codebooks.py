"""The codebooks of the bundles this process has loaded: what rq codes are written and read with.

They are part of a bundle, not of the store: like the LLM, whoever opens the store brings them.

Symbols: S = stages, d = code dimension.
"""

from __future__ import annotations

from memory_store.errors import QuantiserMissingError
from memory_store.records import CodeFormat, FloatArray, MemorySpec
from memory_store.shards.codec import RQ_STAGES


class Codebooks:
    """By the fingerprint of their bundle."""

    def __init__(self) -> None:
        self._by_fingerprint: dict[str, FloatArray] = {}

    def register(self, fingerprint: str, codebooks: FloatArray) -> None:
        """Make (S, 256, d) known.

        Raises:
            ValueError: another number of stages or codewords than codes are stored with.
        """
        if codebooks.shape[:2] != (RQ_STAGES, 256):
            raise ValueError(
                f"codes are stored in {RQ_STAGES} stages of 256 codewords, the bundle's quantiser "
                f"has {codebooks.shape[0]} of {codebooks.shape[1]}; train it again"
            )
        self._by_fingerprint[fingerprint] = codebooks

    def of(self, spec: MemorySpec) -> FloatArray | None:
        """What memories of this kind are written and read with; None if they need none.

        Raises:
            QuantiserMissingError: they need the codebooks of a bundle that is not loaded.
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
