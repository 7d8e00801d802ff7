"""Moving a collection into a compressed index while its old one goes on serving."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np

from memory_store.index.compressed_index import SAMPLE, CompressedIndex
from memory_store.index.vector_index import VectorIndex

BLOCK = 8192
"""Vectors copied at a time: how long a reader may keep a writer waiting."""
SEED = 0


def compress(
    old: VectorIndex,
    shared: Callable[[], AbstractContextManager[None]],
    stopped: threading.Event,
) -> CompressedIndex | None:
    """A new index of what ``old`` holds; None if ``stopped``.

    ``shared`` keeps ``old`` from changing; it is entered for a moment at a time, so the new index
    may be behind: :func:`catch_up`.
    """
    with shared():
        ids = old.ids()
    chosen = np.random.default_rng(SEED).permutation(ids)[:SAMPLE]
    with shared():
        _, sample = old.take(np.sort(chosen))
    if stopped.is_set() or not len(sample):
        return None
    new = CompressedIndex(sample, expected=len(ids))
    del sample
    for start in range(0, len(ids), BLOCK):
        if stopped.is_set():
            return None
        with shared():
            held, vectors = old.take(ids[start : start + BLOCK])
        new.add(held.tolist(), vectors)
    return new


def catch_up(new: CompressedIndex, old: VectorIndex) -> None:
    """Give ``new`` what ``old`` holds now. Nobody may be changing either."""
    now, then = old.ids(), new.ids()
    new.remove(np.setdiff1d(then, now, assume_unique=True).tolist())
    held, vectors = old.take(np.setdiff1d(now, then, assume_unique=True))
    new.add(held.tolist(), vectors)
