"""Ranking every passage of a corpus for every question: BM25, a sentence encoder, the selector.

Symbols: P = passages, Q = questions, k = passages ranked, d = key dimension.
"""

from __future__ import annotations

from collections.abc import Sequence

import bm25s
import numpy as np
import numpy.typing as npt
import torch

from baselines.encoder import SentenceEncoder
from benchmarks.offline import OfflineModel, batches
from memory_model.shared_words import count_shared, weigh_words, words_of
from memory_store.records import CodeFormat
from memory_store.shards.codec import decode_keys, encode_keys
from server.fusion import fuse

Ranking = npt.NDArray[np.int64]
"""(Q, k) rows of passages, best first."""
CANDIDATES = 50


def rank_bm25(texts: Sequence[str], asked: Sequence[str], k: int) -> Ranking:
    """bm25s with its defaults (Robertson's BM25, k1 = 1.5, b = 0.75)."""
    retriever = bm25s.BM25()
    retriever.index(bm25s.tokenize(list(texts), show_progress=False), show_progress=False)
    tokens = bm25s.tokenize(list(asked), show_progress=False)
    rows, _ = retriever.retrieve(tokens, k=k, show_progress=False)
    return np.asarray(rows, dtype=np.int64)


def rank_by_encoder(
    encoder: SentenceEncoder, texts: Sequence[str], asked: Sequence[str], k: int
) -> Ranking:
    """Exact search by the cosine of a sentence encoder's vectors, as the RAG endpoint does it."""
    passages = encoder.passages(texts)  # (P, d)
    return np.stack(
        [np.argsort(-(encoder.queries([query]) @ passages.T)[0])[:k] for query in asked]
    )


def rank_fused(rankings: Sequence[Ranking], k: int) -> Ranking:
    """Reciprocal rank fusion of rankings of the same questions, as ``hybrid`` does it."""
    rows = [
        list(fuse(ranking.tolist() for ranking in ranked))[:k]
        for ranked in zip(*rankings, strict=True)
    ]
    return np.asarray(rows, dtype=np.int64)


@torch.inference_mode()
def rank_by_keys(
    model: OfflineModel,
    keys: torch.Tensor,
    asked: Sequence[str],
    k: int,
    *,
    query_head: bool = True,
) -> Ranking:
    """Exact search of keys (P, d): the ``router``; without the query head ``cosine``."""
    selector = model.bundle.selector
    embed = selector.queries if query_head else selector.keys
    return np.concatenate(
        [(embed([query]).cpu() @ keys.T).topk(k).indices.numpy() for query in asked]
    )


@torch.inference_mode()
def rank_by_attention(
    model: OfflineModel,
    keys: torch.Tensor,
    codes: Sequence[torch.Tensor],
    texts: Sequence[str],
    asked: Sequence[str],
    k: int,
) -> tuple[Ranking, npt.NDArray[np.float32]]:
    """The router's best ``CANDIDATES``, ranked by the re-ranker from their codes (m, d) and the
    words of their texts.

    Returns: the ranking, and its scores (Q, k).
    """
    compressor, selector = model.bundle.compressor, model.bundle.selector
    information = compressor.token_information.cpu().numpy()
    words = [words_of(text) for text in texts]
    rows, ranked = [], []
    for query in asked:
        scores = selector.queries([query])[0].cpu() @ keys.T  # (P,)
        router, best = scores.topk(min(CANDIDATES, len(keys)))
        token_ids = model.bundle.base.tokenize(query)
        tokens = compressor.compress_tokens([token_ids])[0]  # (T, d)
        candidates = torch.stack([codes[int(row)] for row in best])  # (C, m, d)
        reranked = selector.reranker(tokens, candidates, router.to(tokens.device)).cpu()
        asks = weigh_words(query, model.bundle.base.tokenize, information)
        reranked += torch.from_numpy(count_shared(asks, [words[int(row)] for row in best]))
        order = reranked.argsort(descending=True)[:k]
        rows.append(best[order].numpy())
        ranked.append(reranked[order].numpy())
    return np.stack(rows), np.stack(ranked)


@torch.inference_mode()
def embed_keys(model: OfflineModel, passages: Sequence[str]) -> torch.Tensor:
    """Keys of P passages. Returns: (P, d)"""
    selector = model.bundle.selector
    keys = torch.empty(len(passages), selector.key_head.out_features)  # (P, d)
    for rows in batches([len(passage) for passage in passages]):
        keys[rows] = selector.keys([passages[row] for row in rows]).cpu()
    return keys


def stored_keys(keys: torch.Tensor, code_format: CodeFormat) -> torch.Tensor:
    """Keys (P, d) as they come back from a shard of this format."""
    return torch.from_numpy(decode_keys(encode_keys(keys.numpy(), code_format), code_format))
