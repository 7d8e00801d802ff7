"""The ``VectorIndex`` seam: the nearest keys by inner product.

Symbols: n = vectors, d = their dimension. An index is a cache of the shards' keys: it can always
be made again. Ids are positive and unique, vectors finite; both are checked here because FAISS
accepts duplicates and NaN in silence. Both implementations are exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import faiss
import numpy as np
import numpy.typing as npt

from memory_store.records import FloatArray

IdArray = npt.NDArray[np.int64]
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

    def search(
        self, vector: FloatArray, top_k: int, *, allowed: Sequence[int] | None = None
    ) -> Found:
        """(id, score) of the ``top_k`` best, best first, equal scores by id.

        Args:
            vector: (d,)
            allowed: only these ids; None means all.
        """
        ...


class FaissIndex:
    """``IDMap2,Flat``: exact, deletable, and fast enough below about a million vectors."""

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self._index: Any = faiss.IndexIDMap2(faiss.IndexFlatIP(dim))
        self._ids: set[int] = set()

    def __len__(self) -> int:
        return len(self._ids)

    def ids(self) -> IdArray:
        return _id_array(sorted(self._ids))

    def add(self, ids: Sequence[int], vectors: FloatArray) -> None:
        _check(ids, vectors, self.dim, self._ids)
        if ids:
            self._index.add_with_ids(_c_floats(vectors), _id_array(ids))
            self._ids.update(ids)

    def remove(self, ids: Sequence[int]) -> None:
        known = self._ids.intersection(ids)
        if known:
            self._index.remove_ids(_id_array(sorted(known)))
            self._ids -= known

    def search(
        self, vector: FloatArray, top_k: int, *, allowed: Sequence[int] | None = None
    ) -> Found:
        top_k = min(top_k, len(self._ids) if allowed is None else len(allowed))
        if top_k < 1:
            return []
        parameters: Any = None
        if allowed is not None:
            selector: Any = faiss.IDSelectorBatch(_id_array(allowed))
            parameters = faiss.SearchParameters(sel=selector)  # type: ignore[call-arg]
        # queries come one by one from many threads: a team of threads for each would cost more
        # than the scan (on two busy cores 8 ms instead of 15 us); the setting is per thread
        faiss.omp_set_num_threads(1)
        scores, ids = self._index.search(_c_floats(vector[None]), top_k, params=parameters)
        found = zip(ids[0].tolist(), scores[0].tolist(), strict=True)
        # FAISS pads with -1 when it finds fewer
        return _ranked((number, score) for number, score in found if number >= 0)

    def dump(self) -> bytes:
        """Everything of this index; :meth:`load` undoes it."""
        data: bytes = faiss.serialize_index(self._index).tobytes()
        return data

    @classmethod
    def load(cls, data: bytes) -> FaissIndex:
        """Args: data: of :meth:`dump`, its integrity verified: FAISS trusts it."""
        loaded = faiss.deserialize_index(np.frombuffer(data, np.uint8))
        index = cls(loaded.d)
        index._index = loaded
        index._ids = set(faiss.vector_to_array(index._index.id_map).tolist())
        return index


class NumpyIndex:
    """Brute force in a dictionary: what the conformance suite compares FAISS with."""

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self._vectors: dict[int, FloatArray] = {}

    def __len__(self) -> int:
        return len(self._vectors)

    def ids(self) -> IdArray:
        return _id_array(sorted(self._vectors))

    def add(self, ids: Sequence[int], vectors: FloatArray) -> None:
        _check(ids, vectors, self.dim, self._vectors.keys())
        self._vectors.update(zip(ids, vectors.copy(), strict=True))

    def remove(self, ids: Sequence[int]) -> None:
        for number in ids:
            self._vectors.pop(number, None)

    def search(
        self, vector: FloatArray, top_k: int, *, allowed: Sequence[int] | None = None
    ) -> Found:
        chosen = self._vectors.keys() if allowed is None else self._vectors.keys() & set(allowed)
        scored = _ranked((number, float(self._vectors[number] @ vector)) for number in chosen)
        return scored[: max(0, top_k)]


def _check(ids: Sequence[int], vectors: FloatArray, dim: int, known: Any) -> None:
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


def _ranked(found: Any) -> Found:
    return sorted(found, key=lambda item: (-item[1], item[0]))


def _id_array(ids: Sequence[int]) -> IdArray:
    return np.asarray(ids, dtype=np.int64)


def _c_floats(vectors: FloatArray) -> FloatArray:
    return np.ascontiguousarray(vectors, dtype=np.float32)
