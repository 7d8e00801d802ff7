"""Codes as they lie in a shard: bfloat16, or int8 or int4 with one float16 scale a slot.

Symbols: n = passages, m = slots, d = code dimension.
bf16 keeps 8 bits of mantissa (relative error at most 2^-8); int8 and int4 err at most half a scale.
int4 lies two numbers to a byte, the even one in the low half, each plus 8.
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
PEAKS = {CodeFormat.INT8: 127, CodeFormat.INT4: 7}
"""Largest stored number; the least is its negative."""
INT4_ZERO = 8
HEADER_DTYPES = {
    "BF16": BF16,
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "F16": np.dtype(np.float16),
}


def layout(
    code_format: CodeFormat, rows: int, slots: int, z_dim: int
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Tensors of a shard: name -> (safetensors dtype, shape). ``keys`` (n, d) is always bf16."""
    keys = ("BF16", (rows, z_dim))
    if code_format is CodeFormat.BF16:
        return {"codes": ("BF16", (rows, slots, z_dim)), "keys": keys}
    scales = ("F16", (rows, slots))
    if code_format is CodeFormat.INT4:
        return {"codes": ("U8", (rows, slots, z_dim // 2)), "scales": scales, "keys": keys}
    return {"codes": ("I8", (rows, slots, z_dim)), "scales": scales, "keys": keys}


def encode(codes: FloatArray, code_format: CodeFormat) -> dict[str, Tensor]:
    """Encode (n, m, d) float32 into the tensors ``codes`` and, for integers, ``scales``.

    Raises:
        InvalidMemoryError: NaN, infinity, a number the format cannot hold, or an odd d for int4.
    """
    _refuse_non_finite(codes, "codes")
    if code_format is CodeFormat.BF16:
        return {"codes": _to_bf16(codes, "codes")}
    if code_format is CodeFormat.INT4 and codes.shape[-1] % 2:
        raise InvalidMemoryError("int4 needs an even z_dim; use code_format int8")
    scales = _scales(codes, code_format)  # (n, m)
    divisors = np.where(scales > 0, scales, 1).astype(np.float32)
    quantised = np.rint(codes / divisors[..., None]).astype(np.int8)
    if code_format is CodeFormat.INT8:
        return {"codes": quantised, "scales": scales}
    halves = (quantised + INT4_ZERO).astype(np.uint8)  # (n, m, d)
    return {"codes": halves[..., ::2] | halves[..., 1::2] << 4, "scales": scales}


def decode(tensors: Mapping[str, Tensor]) -> FloatArray:
    """Undo :func:`encode`; any leading shape. Returns float32 (…, m, d)."""
    stored = tensors["codes"]
    if stored.dtype == np.uint8:  # int4
        halves = np.stack([stored & 15, stored >> 4], axis=-1)  # (…, m, d / 2, 2)
        codes = halves.reshape(*stored.shape[:-1], -1).astype(np.float32) - INT4_ZERO
    else:
        codes = stored.astype(np.float32)
    if "scales" in tensors:
        codes *= tensors["scales"].astype(np.float32)[..., None]
    return codes


def _scales(codes: FloatArray, code_format: CodeFormat) -> Tensor:
    """One a slot, rounded up, so that the peak itself is never clipped. (n, m, d) -> (n, m)"""
    largest = PEAKS[code_format]
    peaks = np.abs(codes).max(axis=-1)
    with np.errstate(over="ignore"):
        scales: Tensor = (peaks / largest).astype(np.float16)
        too_small = scales.astype(np.float32) * largest < peaks
        scales[too_small] = np.nextafter(scales[too_small], np.float16(np.inf))
    if not np.isfinite(scales).all():
        raise InvalidMemoryError(
            f"codes hold a number too large for {code_format}; use code_format bf16"
        )
    return scales


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
