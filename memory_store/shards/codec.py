"""Codes as they lie in a shard: bfloat16, or int8 with one float16 scale a slot.

Symbols: n = passages, m = slots, d = code dimension.
bf16 keeps 8 bits of mantissa (relative error at most 2^-8); int8 errs at most half a scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from memory_store.errors import InvalidMemoryError
from memory_store.records import CodeFormat, FloatArray

Tensor = npt.NDArray[Any]
BF16 = np.dtype(ml_dtypes.bfloat16)
INT8_MAX = 127
HEADER_DTYPES = {"BF16": BF16, "I8": np.dtype(np.int8), "F16": np.dtype(np.float16)}


def layout(
    code_format: CodeFormat, rows: int, slots: int, z_dim: int
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Tensors of a shard: name -> (safetensors dtype, shape). ``keys`` (n, d) is always bf16."""
    keys = ("BF16", (rows, z_dim))
    if code_format is CodeFormat.BF16:
        return {"codes": ("BF16", (rows, slots, z_dim)), "keys": keys}
    return {"codes": ("I8", (rows, slots, z_dim)), "scales": ("F16", (rows, slots)), "keys": keys}


def encode(codes: FloatArray, code_format: CodeFormat) -> dict[str, Tensor]:
    """Encode (n, m, d) float32 into the tensors ``codes`` and, for int8, ``scales``.

    Raises:
        InvalidMemoryError: NaN, infinity, or a number the format cannot hold.
    """
    _refuse_non_finite(codes, "codes")
    if code_format is CodeFormat.BF16:
        return {"codes": _to_bf16(codes, "codes")}
    # one per slot: (n, m)
    peaks = np.abs(codes).max(axis=-1)
    with np.errstate(over="ignore"):
        scales = (peaks / INT8_MAX).astype(np.float16)
        # rounded up, so that the peak itself is never clipped
        too_small = scales.astype(np.float32) * INT8_MAX < peaks
        scales = np.where(too_small, np.nextafter(scales, np.float16(np.inf)), scales)
    if not np.isfinite(scales).all():
        raise InvalidMemoryError("codes hold a number too large for int8; use code_format bf16")
    divisors = np.where(scales > 0, scales, 1).astype(np.float32)
    quantised = np.rint(codes / divisors[..., None])
    return {"codes": quantised.astype(np.int8), "scales": scales}


def decode(tensors: Mapping[str, Tensor]) -> FloatArray:
    """Undo :func:`encode`; any leading shape. Returns float32 (…, m, d)."""
    codes = tensors["codes"].astype(np.float32)
    if "scales" in tensors:
        codes *= tensors["scales"].astype(np.float32)[..., None]
    return codes


def encode_keys(keys: FloatArray) -> Tensor:
    """Encode (n, d) float32 keys as bf16.

    Raises:
        InvalidMemoryError: NaN or infinity.
    """
    _refuse_non_finite(keys, "key")
    return _to_bf16(keys, "key")


def _to_bf16(values: FloatArray, what: str) -> Tensor:
    with np.errstate(over="ignore"):
        rounded = values.astype(BF16)
    if not np.isfinite(rounded).all():
        raise InvalidMemoryError(f"{what} holds a number too large for bf16")
    return rounded


def _refuse_non_finite(values: FloatArray, what: str) -> None:
    if not np.isfinite(values).all():
        raise InvalidMemoryError(
            f"{what} holds NaN or infinity; the write diverged, write the document again"
        )
