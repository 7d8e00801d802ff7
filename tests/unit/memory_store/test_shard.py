"""A sealed shard gives back what went in, and no flipped or missing bit passes unseen."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from memory_store import CodeFormat, CorruptionError, IncompatibleFormatError, MemorySpec
from memory_store.shards.codec import decode, encode, encode_keys
from memory_store.shards.shard import SealedShard, ShardReader, key_matches, row_checksum, seal
from tests.unit.memory_store.making import QUANTISER

ROWS = 3


def make_shard(root: Path, code_format: CodeFormat = CodeFormat.BF16) -> SealedShard:
    spec = MemorySpec("bundle-1", slots=2, z_dim=8, code_format=code_format)
    rng = np.random.default_rng(0)
    codes = rng.standard_normal((ROWS, 2, 8)).astype(np.float32)
    keys = rng.standard_normal((ROWS, 8)).astype(np.float32)
    return seal(
        root,
        "a.safetensors",
        spec,
        {
            **encode(codes, code_format, QUANTISER),
            "keys": encode_keys(keys, code_format),
        },
    )


def everything_is_sound(path: Path, sealed: SealedShard) -> bool:
    reader = ShardReader(path)
    return not reader.damaged_tensors() and all(
        row_checksum(reader.row(row)) == checksum for row, checksum in enumerate(sealed.checksums)
    )


@pytest.mark.parametrize("code_format", list(CodeFormat))
def test_rows_and_keys_come_back_as_written(tmp_path: Path, code_format: CodeFormat) -> None:
    sealed = make_shard(tmp_path, code_format)
    path = tmp_path / sealed.name
    reader = ShardReader(path)
    rng = np.random.default_rng(0)
    codes = rng.standard_normal((ROWS, 2, 8)).astype(np.float32)
    expected = decode(encode(codes, code_format, QUANTISER), QUANTISER)
    for row, checksum in enumerate(sealed.checksums):
        np.testing.assert_array_equal(decode(reader.code(row, checksum), QUANTISER), expected[row])
        assert key_matches(reader.keys()[row], checksum)
    assert (reader.num_rows, reader.num_bytes) == (ROWS, path.stat().st_size)
    assert (sealed.num_rows, sealed.num_bytes) == (ROWS, path.stat().st_size)
    assert sealed.row_bytes == sum(map(len, reader.row(0).values()))


@pytest.mark.parametrize("code_format", list(CodeFormat))
def test_the_file_is_plain_safetensors(tmp_path: Path, code_format: CodeFormat) -> None:
    from safetensors import safe_open

    sealed = make_shard(tmp_path, code_format)
    with safe_open(tmp_path / sealed.name, framework="numpy") as file:
        assert file.metadata()["format"] == "paramem-shard"
        # int4: two numbers a byte; rq: as many as the quantiser makes
        width = {CodeFormat.INT4: 4, CodeFormat.RQ: 6}.get(code_format, 8)
        assert file.get_slice("codes").get_shape() == [ROWS, 2, width]


@pytest.mark.parametrize("code_format", list(CodeFormat))
def test_every_flipped_data_bit_is_detected(tmp_path: Path, code_format: CodeFormat) -> None:
    sealed = make_shard(tmp_path, code_format)
    path = tmp_path / sealed.name
    whole = path.read_bytes()
    data_start = 8 + int.from_bytes(whole[:8], "little")
    for at in range(data_start, len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << (at % 8)
        path.write_bytes(damaged)
        reader = ShardReader(path)
        assert reader.damaged_tensors()
        assert any(
            row_checksum(reader.row(row)) != checksum
            for row, checksum in enumerate(sealed.checksums)
        ), at


def test_a_flipped_header_bit_never_makes_another_memory(tmp_path: Path) -> None:
    sealed = make_shard(tmp_path)
    path = tmp_path / sealed.name
    whole = path.read_bytes()
    data_start = 8 + int.from_bytes(whole[:8], "little")
    expected = [ShardReader(path).row(row) for row in range(ROWS)]
    refused = 0
    for at in range(data_start):
        for bit in (0, 3, 6):
            damaged = bytearray(whole)
            damaged[at] ^= 1 << bit
            path.write_bytes(damaged)
            try:
                reader = ShardReader(path)
                rows = [reader.row(row) for row in range(reader.num_rows)]
            except (CorruptionError, IncompatibleFormatError):
                refused += 1
                continue
            # a bit in the fingerprint or in a checksum: the rows are still the right ones
            assert rows == expected
    assert refused > data_start


@pytest.mark.parametrize("keep", [0, 4, 8, 100, -1])
def test_a_shard_cut_short_is_refused(tmp_path: Path, keep: int) -> None:
    path = tmp_path / make_shard(tmp_path).name
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CorruptionError, match="doctor"):
        ShardReader(path)


def test_a_shard_cut_short_while_open_is_an_error_not_a_crash(tmp_path: Path) -> None:
    sealed = make_shard(tmp_path)
    reader = ShardReader(tmp_path / sealed.name)
    with (tmp_path / sealed.name).open("r+b") as file:
        file.truncate(100)
    with pytest.raises(CorruptionError, match="cut short"):
        reader.code(0, sealed.checksums[0])


def test_bytes_after_the_tensors_are_refused(tmp_path: Path) -> None:
    path = tmp_path / make_shard(tmp_path).name
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(CorruptionError, match="do not fill"):
        ShardReader(path)


def rewrite_header(path: Path, **metadata: str) -> None:
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    header["__metadata__"].update(metadata)
    encoded = json.dumps(header).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + whole[8 + length :])


def test_a_header_that_asks_for_more_memory_than_the_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / make_shard(tmp_path).name
    rewrite_header(path, rows=str(10**12))
    with pytest.raises(CorruptionError):
        ShardReader(path)


def test_a_huge_header_length_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / make_shard(tmp_path).name
    path.write_bytes((1 << 62).to_bytes(8, "little") + path.read_bytes()[8:])
    with pytest.raises(CorruptionError, match="claims a header"):
        ShardReader(path)


def test_a_shard_of_a_newer_paramem_is_named_as_such(tmp_path: Path) -> None:
    path = tmp_path / make_shard(tmp_path).name
    rewrite_header(path, format_version="2")
    with pytest.raises(IncompatibleFormatError, match="upgrade"):
        ShardReader(path)


def test_a_row_that_is_not_there_is_refused(tmp_path: Path) -> None:
    reader = ShardReader(tmp_path / make_shard(tmp_path).name)
    for row in (-1, ROWS):
        with pytest.raises(CorruptionError, match=f"row {row}"):
            reader.row(row)
