"""Homes that older versions wrote are opened whole; those of newer ones are refused."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import tarfile
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memory_store import (
    IncompatibleFormatError,
    JobStatus,
    MemoryStore,
    Tier,
    WriteMode,
    WriteRequest,
)
from memory_store.crashpoints import VARIABLE
from tests.fixtures.make_home import QUEUED, TEXTS
from tests.unit.memory_store.making import INT8_SPEC, key_of, open_store, passages_of, work

OPEN = "import sys, pathlib, memory_store; memory_store.MemoryStore.open(pathlib.Path(sys.argv[1]))"
HOMES = sorted((Path(__file__).parent.parent / "fixtures").glob("home-v*.tar.gz"))


@pytest.fixture(params=HOMES, ids=lambda path: path.name.partition(".")[0])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    filters: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    with tarfile.open(request.param) as archive:  # Python has filters since 3.11.4
        archive.extractall(tmp_path, **filters)
    return tmp_path


def test_an_old_home_is_whole_and_goes_on_working(home: Path) -> None:
    with open_store(home, orphan_grace_s=0.0) as store:
        assert store.check() == []
        for name, text in TEXTS.items():
            document = store.document("default", name)
            passages = passages_of(text, Tier.FIT)
            assert document.metadata == {"year": 2026, "name": name}
            assert store.document_text("default", name) == text
            codes = store.load_codes(document.memories)
            for code, passage in zip(codes, passages, strict=True):
                np.testing.assert_allclose(code, passage.codes, rtol=2**-8)
            hits = store.select("default", key_of(text, Tier.FIT), 1)
            assert hits[0].memory.document_id == name
        assert store.document("default", "tide").version == 2
        assert store.document_text("default", "secret") is None
        assert store.stats().index_rebuilds == 1  # saved in a layout that is no longer read
        (small,) = store.documents(collection="small").items
        assert store.collection("small").spec == INT8_SPEC
        (code,) = store.load_codes(small.memories[:1])
        np.testing.assert_allclose(code, passages_of(TEXTS["otter"])[0].codes, atol=0.02)
        again = store.submit(
            WriteRequest(QUEUED, "queued", mode=WriteMode.FAST), idempotency_key="key"
        )
        assert not again.created
        work(store, tiers=(Tier.FAST,))
        assert store.jobs.get(again.job.job_id).status is JobStatus.SUCCEEDED
        store.compact()
        assert store.check() == []


def test_a_migration_that_was_killed_is_done_again(home: Path) -> None:
    with closing(sqlite3.connect(home / "catalogue.db")) as connection, connection:
        connection.execute("PRAGMA journal_mode = WAL")
        newest = connection.execute("SELECT max(number) FROM migrations").fetchone()
    killed = subprocess.run(
        [sys.executable, "-c", OPEN, str(home)],
        env={**os.environ, VARIABLE: "k-before-migrated"},
        timeout=60,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    with closing(sqlite3.connect(home / "catalogue.db")) as connection:
        assert connection.execute("SELECT max(number) FROM migrations").fetchone() == newest
    with open_store(home) as store:
        assert store.check() == []


def test_a_home_of_a_newer_catalogue_is_refused_untouched(home: Path) -> None:
    connection = sqlite3.connect(home / "catalogue.db")
    connection.execute("INSERT INTO migrations VALUES (9999, '9999_future.sql', '', 0)")
    connection.commit()
    connection.close()
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    with pytest.raises(IncompatibleFormatError, match="upgrade"):
        MemoryStore.open(home)
    after = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    assert {path: data for path, data in after.items() if path in before} == before


def test_a_shard_of_a_newer_format_is_refused_and_left_alone(home: Path) -> None:
    for shard in (home / "shards").glob("*/*.safetensors"):
        newer = shard.read_bytes().replace(b'"format_version":"1"', b'"format_version":"2"')
        shard.write_bytes(newer)
    with open_store(home) as store:
        memories = store.document("default", "heron").memories
        with pytest.raises(IncompatibleFormatError, match="upgrade"):
            store.load_codes(memories)
        problems = store.check(repair=True)
        assert {(p.code, p.repair, p.repaired) for p in problems} == {
            ("shard_damaged", "upgrade paramem", False)
        }
        assert store.document("default", "heron").memories == memories
