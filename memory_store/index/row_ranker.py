"""Exact scores of chosen rows: what short codes propose, and what a filter allows.

Symbols: n = rows, d = dimension.
"""

from __future__ import annotations

import threading
from functools import cache
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from memory_store.index.vector_index import Found, IdArray, Rows, c_floats, ranked
from memory_store.records import FloatArray

BLOCK = 1024
"""Rows ranked at a time."""


@cache
def row_ranker(dim: int) -> RowRanker:
    """Of all indexes of this dimension."""
    return RowRanker(dim)


class RowRanker(threading.local):
    """Keeps the place that rows are copied to, a block of float16 twice for each thread that ranks:
    new memory for every search costs more, in page faults, than the ranking (LOG.md)."""

    def __init__(self, dim: int) -> None:
        self._gathered = np.empty((BLOCK, dim), np.float16)
        self._near: Any = faiss.IndexScalarQuantizer(
            dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
        )
        self._near.is_trained = True  # nothing to learn: its codes are the float16 numbers

    def best(
        self,
        rows: Rows,
        vectors: npt.NDArray[np.float16],
        ids: IdArray,
        query: FloatArray,
        top_k: int,
    ) -> Found:
        """(id, score) of the ``top_k`` best of ``rows``, best first, equal scores by id.

        Args:
            vectors: (n, d), and ``ids`` (n,): of all rows.
            query: (d,)
        """
        asked = c_floats(query[None])
        found: Found = []
        for start in range(0, len(rows) if top_k > 0 else 0, BLOCK):
            block = rows[start : start + BLOCK]
            gathered = self._gathered[: len(block)]
            np.take(vectors, block, axis=0, out=gathered, mode="clip")  # "raise" would copy twice
            self._near.reset()  # its memory stays
            self._near.add_sa_codes(gathered.view(np.uint8))
            scores, places = self._near.search(asked, min(top_k, len(block)))
            found += zip(ids[block[places[0]]].tolist(), scores[0].tolist(), strict=True)
        return ranked(found)[:top_k]
