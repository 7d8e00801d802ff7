"""Ranking every passage of a corpus for every question, by BM25 and by the bundle's selector.

Symbols: P = passages, Q = questions, k = passages ranked, d = key dimension.
"""

from __future__ import annotations

from collections.abc import Sequence

import bm25s
import numpy as np
import numpy.typing as npt
import torch

from benchmarks.offline import OfflineModel, batches

Ranking = npt.NDArray[np.int64]
"""(Q, k) rows of passages, best first."""


def rank_bm25(texts: Sequence[str], asked: Sequence[str], k: int) -> Ranking:
    """bm25s with its defaults (Robertson's BM25, k1 = 1.5, b = 0.75)."""
    retriever = bm25s.BM25()
    retriever.index(bm25s.tokenize(list(texts), show_progress=False), show_progress=False)
    tokens = bm25s.tokenize(list(asked), show_progress=False)
    rows, _ = retriever.retrieve(tokens, k=k, show_progress=False)
    return np.asarray(rows, dtype=np.int64)


@torch.inference_mode()
def rank_by_keys(
    model: OfflineModel, passages: Sequence[str], asked: Sequence[str], k: int
) -> dict[str, Ranking]:
    """Exact search of the selector's keys, by its query head and without one."""
    selector = model.bundle.selector
    keys = torch.empty(len(passages), selector.key_head.out_features)  # (P, d)
    for rows in batches([len(passage) for passage in passages]):
        keys[rows] = selector.keys([passages[row] for row in rows]).cpu()
    ways = {"router": selector.queries, "cosine": selector.keys}
    return {
        name: np.concatenate(
            [(embed([query]).cpu() @ keys.T).topk(k).indices.numpy() for query in asked]
        )
        for name, embed in ways.items()
    }
