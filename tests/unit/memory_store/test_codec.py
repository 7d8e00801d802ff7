"""Codes survive encoding within the format's error, and what cannot be stored is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from memory_store import CodeFormat, FloatArray, InvalidMemoryError
from memory_store.shards.codec import (
    HEADER_DTYPES,
    decode,
    decode_keys,
    encode,
    encode_keys,
    layout,
)
from tests.unit.memory_store.making import QUANTISER

CODES = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=4),
    elements=st.floats(-1e6, 1e6, width=32),
)


@settings(max_examples=50, deadline=None)
@given(CODES)
def test_bf16_keeps_eight_bits_of_mantissa(codes: FloatArray) -> None:
    error = np.abs(decode(encode(codes, CodeFormat.BF16)) - codes)
    assert (error <= np.abs(codes) * 2.0**-8 + 1e-38).all()


@settings(max_examples=50, deadline=None)
@given(CODES)
def test_int8_errs_at_most_half_a_scale(codes: FloatArray) -> None:
    assert_errs_at_most_half_a_scale(codes, CodeFormat.INT8)


@settings(max_examples=50, deadline=None)
@given(CODES)
def test_int4_errs_at_most_half_a_scale(codes: FloatArray) -> None:
    pairs = np.concatenate([codes, codes / 3], axis=-1) / 10  # an even d, within int4's range
    assert_errs_at_most_half_a_scale(pairs, CodeFormat.INT4)


def assert_errs_at_most_half_a_scale(codes: FloatArray, code_format: CodeFormat) -> None:
    tensors = encode(codes, code_format)
    error = np.abs(decode(tensors) - codes)
    half = tensors["scales"].astype(np.float64)[..., None] / 2
    assert (error <= half * (1 + 1e-3) + 1e-30).all()


@pytest.mark.parametrize("code_format", list(CodeFormat))
def test_encoded_tensors_are_those_of_the_layout(code_format: CodeFormat) -> None:
    codes = np.ones((3, 2, 8), np.float32)
    keys = encode_keys(codes[:, 0], code_format)
    tensors = {**encode(codes, code_format, QUANTISER), "keys": keys}
    expected = layout(code_format, 3, 2, 8, slot_bytes=QUANTISER.slot_bytes)
    assert {n: (HEADER_DTYPES[dtype], shape) for n, (dtype, shape) in expected.items()} == {
        name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()
    }


@pytest.mark.parametrize("code_format", list(CodeFormat))
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_code_that_is_not_finite_is_refused(code_format: CodeFormat, bad: float) -> None:
    codes = np.ones((1, 2, 8), np.float32)
    codes[0, 1, 3] = bad
    with pytest.raises(InvalidMemoryError, match="NaN or infinity"):
        encode(codes, code_format, QUANTISER)


@pytest.mark.parametrize("code_format", [CodeFormat.BF16, CodeFormat.INT8, CodeFormat.INT4])
def test_a_number_too_large_for_the_format_is_refused(code_format: CodeFormat) -> None:
    codes = np.full((1, 1, 2), np.finfo(np.float32).max)
    with pytest.raises(InvalidMemoryError, match="too large"):
        encode(codes, code_format)


def test_a_key_that_is_not_finite_is_refused() -> None:
    with pytest.raises(InvalidMemoryError, match="key"):
        encode_keys(np.array([[np.nan, 1.0]], np.float32), CodeFormat.INT8)


def test_a_slot_of_zeros_decodes_to_zeros() -> None:
    codes = np.zeros((1, 2, 4), np.float32)
    assert (decode(encode(codes, CodeFormat.INT8)) == 0).all()
    assert (decode(encode(codes, CodeFormat.INT4)) == 0).all()


def test_int4_keeps_numbers_in_their_places() -> None:
    codes = np.arange(-7, 9, dtype=np.float32)[None, None] % 8  # (1, 1, 16): 0 … 7 twice
    codes[..., 8:] *= -1
    np.testing.assert_array_equal(decode(encode(codes, CodeFormat.INT4)), codes)


def test_an_odd_dimension_is_refused_for_int4() -> None:
    with pytest.raises(InvalidMemoryError, match="even z_dim"):
        encode(np.ones((1, 2, 7), np.float32), CodeFormat.INT4)


def test_rq_stores_what_the_quantiser_makes_of_a_slot() -> None:
    codes = np.random.default_rng(0).standard_normal((3, 2, 8)).astype(np.float32)
    stored = encode(codes, CodeFormat.RQ, QUANTISER)
    assert stored.keys() == {"codes"}
    np.testing.assert_array_equal(stored["codes"], QUANTISER.encode(codes))
    np.testing.assert_array_equal(decode(stored, QUANTISER), QUANTISER.decode(stored["codes"]))


@pytest.mark.parametrize(
    ("code_format", "error"), [("bf16", 2.0**-8), ("int8", 0.01), ("int4", 0.15), ("rq", 0.15)]
)
def test_a_key_comes_back_as_fine_as_its_format(code_format: str, error: float) -> None:
    keys = np.random.default_rng(2).standard_normal((5, 64)).astype(np.float32)
    encoded = encode_keys(keys, CodeFormat(code_format))
    back = decode_keys(encoded, CodeFormat(code_format))
    assert np.linalg.norm(back - keys) / np.linalg.norm(keys) < error
