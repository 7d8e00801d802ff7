"""One flipped bit, in whatever file: refused or rebuilt. The long form: benchmarks.bitflips."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from benchmarks.bitflips import (
    Homes,
    Outcome,
    Target,
    choose,
    make_homes,
    targets,
    try_flips,
)
from memory_store import CorruptionError, MemoryStore

FLIPS = 12
NOTICED = {Outcome.DETECTED, Outcome.REBUILT, Outcome.UNREAD}


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Homes:
    return make_homes(tmp_path_factory.mktemp("homes"))


def outcomes(homes: Homes, kind: str, seed: int) -> list[Outcome]:
    chosen = [one for one in choose(homes, FLIPS, random.Random(seed)) if one[0].kind == kind]
    assert len(chosen) == FLIPS
    return [outcome for _, _, outcome in try_flips(homes, chosen)]


@pytest.mark.parametrize(
    "kind", ["shard header", "shard tensors", "index", "kept texts", "catalogue's log"]
)
def test_a_flipped_bit_is_noticed_and_never_served(homes: Homes, kind: str) -> None:
    assert set(outcomes(homes, kind, seed=1)) <= NOTICED


def test_a_flipped_bit_of_the_catalogue_is_noticed_or_in_nothing_that_is_used(homes: Homes) -> None:
    found = outcomes(homes, "catalogue", seed=2)
    assert set(found) <= NOTICED | {Outcome.HARMLESS}
    assert NOTICED.intersection(found)


def test_a_flipped_bit_in_what_is_noted_of_commits_costs_nothing_but_the_note(homes: Homes) -> None:
    assert set(outcomes(homes, "mark of its commits", seed=1)) == {Outcome.HARMLESS}


def test_a_flipped_bit_amid_the_log_is_refused_before_anything_is_forgotten(homes: Homes) -> None:
    (log,) = [target for target in targets(homes) if target.kind == "catalogue's log"]
    half = Target(log.kind, log.home, log.file, 0, log.end // 2)
    spread = range(0, 8 * half.end, 8 * half.end // FLIPS)
    for bit in [0, 8 * 10, 8 * 17, *spread]:  # magic, page size and salts are in the first bytes
        for _, _, outcome in try_flips(homes, [(half, bit)]):
            assert outcome is Outcome.DETECTED, bit


def cut(home: Path) -> None:
    log = home / "catalogue.db-wal"
    log.write_bytes(log.read_bytes()[:-100])


def test_a_log_cut_in_a_transaction_that_was_not_acknowledged_is_what_a_power_cut_leaves(
    homes: Homes, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    shutil.copytree(homes.killed, home)
    cut(home)
    (home / "catalogue.db-mark").unlink()  # as if the last one had not come so far
    with MemoryStore.open(home) as store:
        assert store.documents().items


def test_a_log_cut_in_an_acknowledged_transaction_is_refused(homes: Homes, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(homes.killed, home)
    cut(home)
    with pytest.raises(CorruptionError, match=r"1 transactions would.*delete catalogue\.db-mark"):
        MemoryStore.open(home)


def test_a_log_damaged_in_its_middle_is_refused(homes: Homes, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(homes.killed, home)
    log = home / "catalogue.db-wal"
    data = bytearray(log.read_bytes())
    data[len(data) // 2] ^= 1
    log.write_bytes(data)
    with pytest.raises(CorruptionError, match=r"delete catalogue\.db-wal"):
        MemoryStore.open(home)
