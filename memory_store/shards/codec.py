"""Codes as they lie in a shard: bfloat16; int8 or int4 with one float16 scale a slot; or the bytes
that the bundle's quantiser makes of a slot.

Symbols: n = passages, m = slots, d = code dimension, S = bytes a slot of the quantiser.
bf16 keeps 8 bits of mantissa (relative error at most 2^-8); int8 and int4 err at most half a scale.
int4 lies two numbers to a byte, the even one in the low half, each plus 8. What the bytes of a rq
slot say, only its bundle knows (see memory_model.quantiser).

Keys are as fine as the codes: bf16, or int8 or int4 (for rq too) with their scale in the row's last
two bytes, so that a key is one piece of memory with one checksum.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from memory_store.errors import InvalidMemoryError
from memory_store.records import CodeFormat, FloatArray
from memory_store.slot_quantiser import SlotQuantiser

Tensor = npt.NDArray[Any]
BF16 = np.dtype(ml_dtypes.bfloat16)
PEAKS = {CodeFormat.INT8: 127, CodeFormat.INT4: 7}
"""Largest stored number; the least is its negative."""
INT4_ZERO = 8
_BYTES = np.arange(256)
_PAIRS = np.stack([_BYTES & 15, _BYTES >> 4], axis=1).astype(np.float32) - INT4_ZERO
INT4_PAIRS = _PAIRS.view(np.uint64)[:, 0]  # (256,) the two numbers of each byte
SCALE = np.dtype(np.float16)
KEY_FORMATS = {CodeFormat.RQ: CodeFormat.INT4}
"""Of the keys, where it is not that of the codes."""
HEADER_DTYPES = {
    "BF16": BF16,
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "F16": SCALE,
}


def layout(
    code_format: CodeFormat, rows: int, slots: int, z_dim: int, *, slot_bytes: int = 0
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Tensors of a shard: name -> (safetensors dtype, shape). ``slot_bytes``: S, for rq."""
    if code_format is CodeFormat.BF16:
        return {"codes": ("BF16", (rows, slots, z_dim)), "keys": ("BF16", (rows, z_dim))}
    if code_format is CodeFormat.INT8:
        codes = ("I8", (rows, slots, z_dim))
        keys = ("U8", (rows, z_dim + SCALE.itemsize))
    else:
        width = slot_bytes if code_format is CodeFormat.RQ else z_dim // 2
        codes = ("U8", (rows, slots, width))
        keys = ("U8", (rows, z_dim // 2 + SCALE.itemsize))
    if code_format is CodeFormat.RQ:
        return {"codes": codes, "keys": keys}
    return {"codes": codes, "scales": ("F16", (rows, slots)), "keys": keys}


def encode(
    codes: FloatArray, code_format: CodeFormat, quantiser: SlotQuantiser | None = None
) -> dict[str, Tensor]:
    """Encode (n, m, d) float32 into the tensors ``codes`` and, for integers, ``scales``.

    Args:
        quantiser: of the bundle, for rq.

    Raises:
        InvalidMemoryError: NaN, infinity, a number the format cannot hold, or an odd d for int4.
    """
    _refuse_non_finite(codes, "codes")
    if code_format is CodeFormat.BF16:
        return {"codes": _to_bf16(codes, "codes")}
    if code_format is CodeFormat.RQ:
        assert quantiser is not None, "rq needs the bundle's quantiser"
        return {"codes": quantiser.encode(codes)}
    packed, scales = _to_integers(codes, code_format)
    return {"codes": packed, "scales": scales}


def decode(tensors: Mapping[str, Tensor], quantiser: SlotQuantiser | None = None) -> FloatArray:
    """Undo :func:`encode`; any leading shape. Returns float32 (…, m, d)."""
    stored = tensors["codes"]
    if "scales" in tensors:
        return _from_integers(stored, tensors["scales"])
    if stored.dtype == np.uint8:
        assert quantiser is not None, "rq needs the bundle's quantiser"
        return quantiser.decode(stored)
    return stored.astype(np.float32)


def encode_keys(keys: FloatArray, code_format: CodeFormat) -> Tensor:
    """Encode (n, d) float32 keys as bf16 (n, d), or as integers and scale (n, bytes) uint8.

    Raises:
        InvalidMemoryError: NaN or infinity, or an odd d for int4.
    """
    _refuse_non_finite(keys, "key")
    if code_format is CodeFormat.BF16:
        return _to_bf16(keys, "key")
    packed, scales = _to_integers(keys, KEY_FORMATS.get(code_format, code_format))
    return np.concatenate([packed.view(np.uint8), scales[:, None].view(np.uint8)], axis=-1)


def decode_keys(keys: Tensor, code_format: CodeFormat) -> FloatArray:
    """Undo :func:`encode_keys`. Returns (n, d) float32."""
    if code_format is CodeFormat.BF16:
        return keys.astype(np.float32)
    packed, scales = keys[:, : -SCALE.itemsize], keys[:, -SCALE.itemsize :]
    if code_format is CodeFormat.INT8:
        packed = packed.view(np.int8)
    return _from_integers(packed, np.ascontiguousarray(scales).view(SCALE)[:, 0])


def _to_integers(values: FloatArray, code_format: CodeFormat) -> tuple[Tensor, Tensor]:
    """(…, d) -> integers (…, d) or, two to a byte, (…, d / 2); and scales (…)."""
    if code_format is CodeFormat.INT4 and values.shape[-1] % 2:
        raise InvalidMemoryError("int4 needs an even z_dim; use code_format int8")
    scales = _scales(values, code_format)  # (…)
    divisors = np.where(scales > 0, scales, 1).astype(np.float32)
    quantised = np.rint(values / divisors[..., None]).astype(np.int8)
    if code_format is CodeFormat.INT8:
        return quantised, scales
    halves = (quantised + INT4_ZERO).astype(np.uint8)  # (…, d)
    return halves[..., ::2] | halves[..., 1::2] << 4, scales


def _from_integers(packed: Tensor, scales: Tensor) -> FloatArray:
    """Undo :func:`_to_integers`; uint8 is int4. Returns (…, d) float32."""
    factors = scales.astype(np.float32)[..., None]
    values: FloatArray
    if packed.dtype == np.uint8:
        values = INT4_PAIRS[packed].view(np.float32)  # (…, d / 2) of two each -> (…, d)
        values *= factors
    else:
        values = np.multiply(packed, factors, dtype=np.float32)
    return values


def _scales(values: FloatArray, code_format: CodeFormat) -> Tensor:
    """One a row, rounded up, so that the peak itself is never clipped. (…, d) -> (…)"""
    largest = PEAKS[code_format]
    peaks = np.abs(values).max(axis=-1)
    with np.errstate(over="ignore"):
        scales: Tensor = np.asarray((peaks / largest).astype(SCALE))
        too_small = scales.astype(np.float32) * largest < peaks
        scales[too_small] = np.nextafter(scales[too_small], SCALE.type(np.inf))
    if not np.isfinite(scales).all():
        raise InvalidMemoryError(
            f"codes hold a number too large for {code_format}; use code_format bf16"
        )
    return scales


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
