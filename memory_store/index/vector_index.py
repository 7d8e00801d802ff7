"""The ``VectorIndex`` seam: the nearest keys by inner product.

Symbols: n = vectors, d = their dimension. An index is a cache of the shards' keys: it can always
be made again. Ids are positive and unique, vectors finite; both are checked here because FAISS
accepts duplicates and NaN in silence. Whatever the implementation, an id that was removed or is not
allowed is never found, and a filtered search is exact.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from memory_store.records import FloatArray

WORD_BYTES = 8
FLOAT16_MAX = float(np.finfo(np.float16).max)

IdArray = npt.NDArray[np.int64]
Rows = npt.NDArray[np.int64]  # where vectors lie, in the order in which they came
Found = list[tuple[int, float]]


class VectorIndex(Protocol):
    """Searching is safe from many threads at once; changing it needs exclusion."""

    dim: int

    def __len__(self) -> int: ...

    def ids(self) -> IdArray:
        """Ascending."""
        ...

    def add(self, ids: Sequence[int], vectors: FloatArray) -> None:
        """Add (n, d) vectors, all or none.

        Raises:
            ValueError: an id is there already or twice, or a vector is not finite.
        """
        ...

    def remove(self, ids: Sequence[int]) -> None:
        """Unknown ids are fine."""
        ...

    def take(self, ids: IdArray) -> tuple[IdArray, FloatArray]:
        """Those of ``ids`` that are here, and their vectors: (n,), (n, d)."""
        ...

    def search(
        self, vector: FloatArray, top_k: int, *, allowed: Sequence[int] | None = None
    ) -> Found:
        """(id, score) of the ``top_k`` best, best first, equal scores by id.

        Args:
            vector: (d,)
            allowed: only these ids; None means all.
        """
        ...


class NumpyIndex:
    """Brute force in a dictionary: the reference of the conformance suite."""

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self._vectors: dict[int, FloatArray] = {}

    def __len__(self) -> int:
        return len(self._vectors)

    def ids(self) -> IdArray:
        return id_array(sorted(self._vectors))

    def add(self, ids: Sequence[int], vectors: FloatArray) -> None:
        check(ids, vectors, self.dim, self._vectors.keys())
        self._vectors.update(zip(ids, vectors.copy(), strict=True))

    def remove(self, ids: Sequence[int]) -> None:
        for number in ids:
            self._vectors.pop(number, None)

    def take(self, ids: IdArray) -> tuple[IdArray, FloatArray]:
        held = [number for number in ids.tolist() if number in self._vectors]
        vectors = [self._vectors[number] for number in held]
        return id_array(held), np.array(vectors, np.float32).reshape(-1, self.dim)

    def search(
        self, vector: FloatArray, top_k: int, *, allowed: Sequence[int] | None = None
    ) -> Found:
        chosen = self._vectors.keys() if allowed is None else self._vectors.keys() & set(allowed)
        scored = ranked((number, float(self._vectors[number] @ vector)) for number in chosen)
        return scored[: max(0, top_k)]


def check(ids: Sequence[int], vectors: FloatArray, dim: int, known: Container[int]) -> None:
    """Refuse what :meth:`VectorIndex.add` refuses; ``known``: the ids that are there already."""
    if vectors.shape != (len(ids), dim):
        raise ValueError(f"vectors have shape {vectors.shape}, expected {(len(ids), dim)}")
    if len(set(ids)) != len(ids):
        raise ValueError("an id is given twice")
    duplicates = [number for number in ids if number in known]
    if duplicates:
        raise ValueError(f"ids are in the index already: {duplicates[:5]}")
    if any(number < 0 for number in ids):
        raise ValueError("ids must not be negative")
    if not np.isfinite(vectors).all():
        raise ValueError("a vector holds NaN or infinity")


def ranked(found: Any) -> Found:
    return sorted(found, key=lambda item: (-item[1], item[0]))


def id_array(ids: Sequence[int]) -> IdArray:
    return np.asarray(ids, dtype=np.int64)


def c_floats(vectors: FloatArray) -> FloatArray:
    return np.ascontiguousarray(vectors, dtype=np.float32)


def pieces_of(*arrays: npt.NDArray[Any]) -> list[memoryview]:
    """Their bytes, one after the other, for a file."""
    return [array.reshape(-1).view(np.uint8).data for array in arrays]


def saved_rows(
    data: memoryview, start: int, count: int, dim: int
) -> tuple[IdArray, npt.NDArray[np.float16], int]:
    """Ids (n,) and then float16 vectors (n, d) that lie at ``start``, and where they end."""
    ids = np.frombuffer(data, np.int64, count, start)
    vectors = np.frombuffer(data, np.float16, count * dim, start + ids.nbytes)
    return ids, vectors.reshape(count, dim), start + ids.nbytes + vectors.nbytes


def as_float16(vectors: FloatArray) -> npt.NDArray[np.float16]:
    """Rounded to float16; what it cannot hold becomes its largest number. (n, d) -> (n, d)"""
    return vectors.clip(-FLOAT16_MAX, FLOAT16_MAX).astype(np.float16)
