"""Documents, passages and workers for the store's tests: small, seeded, torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from memory_store import (
    CodeFormat,
    FloatArray,
    Job,
    MemorySpec,
    MemoryStore,
    PassageMemory,
    Tier,
    WriteRequest,
    WrittenDocument,
)

SPEC = MemorySpec("bundle-1", slots=2, z_dim=8)
INT8_SPEC = MemorySpec("bundle-1", slots=2, z_dim=8, code_format=CodeFormat.INT8)
WORKER = "worker-1"
PASSAGE_CHARS = 10


class SixthsQuantiser:
    """Keeps the first six numbers of a slot of eight, each rounded to sixteenths, in a byte."""

    slot_bytes = 6

    def encode(self, codes: FloatArray) -> npt.NDArray[Any]:
        return (np.rint(16 * codes[..., :6]) + 128).clip(0, 255).astype(np.uint8)

    def decode(self, names: npt.NDArray[Any]) -> FloatArray:
        numbers = (names.astype(np.float32) - 128) / 16
        return np.concatenate([numbers, np.zeros_like(numbers[..., :2])], axis=-1)


QUANTISER = SixthsQuantiser()


class Clock:
    """A wall clock that only moves when told to."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def open_store(home: Path, *, spec: MemorySpec = SPEC, **options: Any) -> MemoryStore:
    """A store with the collection ``default``."""
    store = MemoryStore.open(home, **options)
    store.register_quantiser(spec.fingerprint, QUANTISER)
    store.put_collection("default", spec)
    return store


def passage(text: str, start: int = 0, *, spec: MemorySpec = SPEC, salt: str = "") -> PassageMemory:
    """A memory that only depends on the text (and ``salt``)."""
    rng = np.random.default_rng(xxhash.xxh64_intdigest((salt + text).encode()))
    key = rng.standard_normal(spec.z_dim).astype(np.float32)
    return PassageMemory(
        codes=rng.standard_normal((spec.slots, spec.z_dim)).astype(np.float32),
        key=key / np.linalg.norm(key),
        text_start=start,
        text_end=start + len(text),
        num_tokens=len(text.split()),
        stats={"nats_per_token": 1.5},
    )


def passages_of(
    text: str, tier: Tier = Tier.FAST, *, spec: MemorySpec = SPEC
) -> list[PassageMemory]:
    """Cut every ten characters; a fit makes other memories than the fast tier."""
    return [
        passage(text[at : at + PASSAGE_CHARS], at, spec=spec, salt=tier)
        for at in range(0, len(text), PASSAGE_CHARS)
    ]


def key_of(text: str, tier: Tier = Tier.FAST) -> FloatArray:
    """The key of a one-passage text."""
    return passages_of(text, tier)[0].key


def written(store: MemoryStore, job: Job, *, spec: MemorySpec = SPEC) -> WrittenDocument:
    text = store.document_source(job).text
    return WrittenDocument(job, passages_of(text, job.tier, spec=spec), {"loss": 0.25})


def work(
    store: MemoryStore,
    *,
    tiers: Sequence[Tier] = (Tier.FAST, Tier.FIT),
    spec: MemorySpec = SPEC,
    limit: int = 16,
) -> list[Job]:
    """Be the worker until the queue is empty."""
    done: list[Job] = []
    while jobs := store.jobs.lease(WORKER, limit=limit, lease_s=60.0, tiers=tiers):
        batch = [written(store, job, spec=spec) for job in jobs]
        done += store.commit(batch, spec, WORKER)
    return done


def write(store: MemoryStore, text: str, document_id: str, **fields: Any) -> Job:
    """Submit one document and make its fast memories."""
    request = WriteRequest(text=text, document_id=document_id, **fields)
    job = store.submit(request).job
    work(store, tiers=(Tier.FAST,))
    return store.jobs.get(job.job_id)


def best(store: MemoryStore, text: str, tier: Tier = Tier.FAST) -> tuple[str, int]:
    hit = store.select("default", key_of(text, tier), 1)[0]
    return hit.memory.document_id, hit.memory.passage
