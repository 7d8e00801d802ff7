"""The disk fails at every call of every operation in turn: a typed refusal, and nothing lost.

Of the catalogue's statements the suite fails every eleventh; ``FAULT_STRIDE=1`` fails them all
(minutes).
"""

from __future__ import annotations

import io
import os
import resource
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, redirect_stdout
from functools import partial
from pathlib import Path

import pytest

from memory_store import CorruptionError, DiskFailedError, DiskFullError, MemoryStore, StoreError
from tests.crash.faulty_disk import (
    CatalogueFault,
    FaultyDisk,
    FileFault,
    faulty_catalogue,
    faulty_files,
)
from tests.crash.store_process import DOCUMENTS, OPERATIONS, prepare
from tests.crash.verdict import assert_nothing_lost
from tests.unit.memory_store.making import open_store

EXPECTED: dict[FileFault | CatalogueFault, type[StoreError] | tuple[type[StoreError], ...]] = {
    FileFault.SHORT: (),  # a short write is continued, a short read is one of a cut file
    FileFault.FULL: DiskFullError,
    FileFault.FAILED: DiskFailedError,
    FileFault.READ_ONLY: DiskFailedError,
    FileFault.TORN: DiskFailedError,
    CatalogueFault.FULL: DiskFullError,
    CatalogueFault.FAILED: DiskFailedError,
    CatalogueFault.READ_ONLY: DiskFailedError,
    CatalogueFault.BUSY: DiskFailedError,
    CatalogueFault.DAMAGED: CorruptionError,
}
Homes = Callable[[str], Path]
STRIDE = int(os.environ.get("FAULT_STRIDE", "11"))


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Homes:
    """A fresh copy of the home that an operation starts from."""
    prepared: dict[str, Path] = {}

    def copy(operation: str) -> Path:
        if operation not in prepared:
            prepared[operation] = tmp_path_factory.mktemp(operation)
            prepare(prepared[operation], operation)
        home = tmp_path_factory.mktemp("home") / "home"
        shutil.copytree(prepared[operation], home)
        return home

    return copy


def attempt(home: Path, operation: str) -> tuple[StoreError | None, list[str]]:
    """Run it: the refusal, if there is one, and the documents that are acknowledged.

    Anything but a house error fails the test.
    """
    told = io.StringIO()
    refusal = None
    try:
        with redirect_stdout(told), MemoryStore.open(home) as store:
            OPERATIONS[operation](store)
    except StoreError as error:
        refusal = error
    return refusal, told.getvalue().split() if operation == "submit" else list(DOCUMENTS)


def fail_every_call(
    homes: Homes,
    operation: str,
    kinds: Sequence[FileFault | CatalogueFault],
    faults: Callable[[FaultyDisk], AbstractContextManager[FaultyDisk]],
    stride: int = 1,
) -> None:
    """Each call of the operation fails once, the kinds of fault in turn."""
    home = homes(operation)
    with faults(FaultyDisk()) as disk:
        attempt(home, operation)
    refusals = 0
    for number in range(0, len(disk.calls), stride):
        home = homes(operation)
        fault = kinds[number % len(kinds)]
        with faults(FaultyDisk(fault, number)):
            refusal, acknowledged = attempt(home, operation)
        if refusal is not None:
            refusals += 1
            assert isinstance(refusal, EXPECTED[fault]), (disk.calls[number], refusal)
        if fault is FileFault.TORN:
            with open_store(home) as store:  # a torn index is deleted, everything else swept
                assert all(problem.repaired for problem in store.check(repair=True))
        assert_nothing_lost(home, acknowledged, send_again=operation == "submit")
        shutil.rmtree(home)
    assert refusals


@pytest.mark.parametrize("operation", ["submit", "work", "compact", "save"])
def test_a_file_call_that_fails_is_refused_and_nothing_is_lost(
    homes: Homes, operation: str
) -> None:
    fail_every_call(homes, operation, list(FileFault), faulty_files)


@pytest.mark.parametrize("rolls_back", [False, True])
@pytest.mark.parametrize("operation", ["submit", "work", "compact", "save"])
def test_a_statement_that_fails_is_refused_and_nothing_is_lost(
    homes: Homes, operation: str, rolls_back: bool
) -> None:
    faults = partial(faulty_catalogue, rolls_back=rolls_back)
    fail_every_call(homes, operation, list(CatalogueFault), faults, STRIDE)


@pytest.mark.parametrize("operation", ["submit", "work"])
def test_a_disk_that_ends_in_the_middle_of_a_write_is_refused_and_nothing_is_lost(
    homes: Homes, operation: str
) -> None:
    """The kernel itself stops the writes of SQLite and of shards, short ones included."""
    refusals = 0
    for limit in range(1024, 200_000, 24_690):
        home = homes(operation)
        with file_size_limit(limit):
            refusal, acknowledged = attempt(home, operation)
        refusals += refusal is not None
        assert refusal is None or isinstance(refusal, (DiskFullError, DiskFailedError))
        assert_nothing_lost(home, acknowledged, send_again=operation == "submit")
        shutil.rmtree(home)
    assert refusals > 1


@contextmanager
def file_size_limit(limit: int) -> Iterator[None]:
    """No file of this process may grow past ``limit`` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
