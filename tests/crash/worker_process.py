"""A worker in a process of its own, whose writer does what the text tells it to.

Run as ``python -m tests.crash.worker_process``; settings come from the environment.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from memory_store.records import CodeFormat, Job, MemorySpec, Tier, WriteMode, WriteRequest
from memory_store.store import MemoryStore
from paramem.settings import Settings, load_settings
from trainer_worker.dummy_writer import DummyWriter
from trainer_worker.process import run_worker
from trainer_worker.writer import (
    DeviceLost,
    MemoryWriter,
    Progress,
    SourceDocument,
    WriteError,
    Written,
)

KILL = "[[kill]]"  # the process dies
LOSE_DEVICE = "[[lose device]]"  # the accelerator is gone
RAISE = "[[raise]]"
HANG = "[[hang]]"  # never returns, never calls back
TICK = "[[tick]]"  # never returns, but reports progress
SLOW = "[[slow]]"  # takes a while

SPEC = MemorySpec(fingerprint="dummy-1", slots=4, z_dim=32, code_format=CodeFormat.BF16)
FAST_SETTINGS = {
    "PARAMEM_WRITER": "dummy",
    "PARAMEM_SLOTS": "4",
    "PARAMEM_Z_DIM": "32",
    "PARAMEM_LEASE_S": "1",
    "PARAMEM_HEARTBEAT_S": "0.1",
    "PARAMEM_POLL_S": "0.02",
}
PATIENCE_S = 60.0


class ObedientWriter:
    """The dummy writer, after it has done what the markers in the texts say."""

    def __init__(self, dummy: DummyWriter) -> None:
        self.spec = dummy.spec
        self.quantiser = dummy.quantiser
        self._dummy = dummy

    def write(
        self, documents: Sequence[SourceDocument], tier: Tier, spec: MemorySpec, progress: Progress
    ) -> list[Written | WriteError]:
        for document in documents:
            if KILL in document.text:
                os.kill(os.getpid(), signal.SIGKILL)
            if LOSE_DEVICE in document.text:
                raise DeviceLost
            if RAISE in document.text:
                raise ValueError("told to")
            if SLOW in document.text:
                time.sleep(0.5)
            while HANG in document.text:
                time.sleep(1)
            while TICK in document.text:
                progress([0.5] * len(documents), str(tier))
                time.sleep(0.01)
        return self._dummy.write(documents, tier, spec, progress)


def make_writer(settings: Settings) -> MemoryWriter:
    match settings.model:
        case "slow-to-load":
            time.sleep(PATIENCE_S)
        case "broken":
            raise RuntimeError("this model cannot be loaded")
        case "plain":
            return DummyWriter.from_settings(settings)
    return ObedientWriter(DummyWriter.from_settings(settings))


def start_worker(home: Path, **settings: object) -> subprocess.Popen[bytes]:
    """Start one; its log goes to ``home``'s sibling ``worker.log``."""
    named = {f"PARAMEM_{name.upper()}": str(value) for name, value in settings.items()}
    with (home.parent / "worker.log").open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.crash.worker_process"],
            env={**os.environ, **FAST_SETTINGS, "PARAMEM_HOME": str(home), **named},
            stdout=output,
            stderr=output,
        )


def open_store(home: Path) -> MemoryStore:
    store = MemoryStore.open(home)
    store.put_collection("default", SPEC)
    return store


def submit(store: MemoryStore, text: str, document_id: str | None = None) -> Job:
    request = WriteRequest(text=text, document_id=document_id, mode=WriteMode.FAST)
    return store.submit(request).job


def wait_until(condition: Callable[[], object]) -> None:
    """Raises: TimeoutError."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("it never happened; see worker.log beside the home")
        time.sleep(0.02)


if __name__ == "__main__":
    run_worker(load_settings(), make_writer=make_writer)
