"""Bytes on disk of the same documents as memories, as RAG keeps them, and as a KV cache.

    python -m benchmarks.storage --data ../shared/datasets --set squad-dev --documents 200

Every home is written through the store's own API, its index saved, and weighed file by file:
shards (codes and keys), kept texts, the rest of the catalogue (rows, checksums, SQLite's own
pages) and the saved index. Sizes do not depend on what the numbers are, so codes are random. A KV
cache is weighed on paper: bf16 keys and values of every layer for a passage's tokens.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from baselines.encoder import load_encoder
from baselines.rag_engine import chunk_spec
from benchmarks.command import bundle_parser, say
from benchmarks.homes import write_together
from benchmarks.offline import OfflineModel
from clients.evaluation.data import load_set
from memory_model.passages import Passage
from memory_store import (
    Job,
    MemorySpec,
    MemoryStore,
    PassageMemory,
    WriteMode,
    WriteRequest,
)
from memory_store.slot_quantiser import SlotQuantiser
from paramem.settings import load_settings

BATCH = 64  # documents of a commit, hence of a shard
BF16_BYTES = 2


def main() -> None:
    parser = bundle_parser(__doc__)
    parser.add_argument("--set", dest="set_name", default="squad-dev")
    parser.add_argument("--documents", type=int, default=200)
    parser.add_argument("--slots", type=int, nargs="*", help="instead of the bundle's m")
    arguments = parser.parse_args()
    model = OfflineModel(arguments.bundle, arguments.model)
    chosen = load_set(arguments.data, arguments.set_name).documents[: arguments.documents]
    texts = {document.id: document.text for document in chosen}
    split = {name: model.splitter.split(text) for name, text in texts.items()}
    tokens = fmean(len(passage.token_ids) for passages in split.values() for passage in passages)
    config = model.bundle.config
    quantiser = model.bundle.slot_quantiser
    settings = load_settings()
    encoder = load_encoder(settings)
    say(
        f"## Storage, {arguments.set_name}\n\n{len(texts)} documents, "
        f"{sum(map(len, split.values()))} passages of {tokens:.0f} tokens, d = {config.z_dim}; "
        f"RAG: {settings.rag_encoder}.\n\nBytes a passage:\n\n"
        "| kept as | codes and key | text | rest of the catalogue | index | all |\n"
        "|---|--:|--:|--:|--:|--:|"
    )
    for slots in arguments.slots or [config.slots]:
        for code_format in model.code_formats:
            spec = MemorySpec(config.fingerprint, slots, config.z_dim, code_format)
            say(weigh(f"memory, m = {slots}, {code_format}", spec, texts, split, quantiser))
    say(weigh("RAG: vector and text", chunk_spec(encoder), texts, split, None))
    cached = cached_bytes(model.bundle.base.lm.config, tokens)
    say(f"| KV cache of the passage, bf16 | {cached:,.0f} | | | | |")


def cached_bytes(lm: Any, tokens: float) -> float:
    """Of the keys and values that an LLM of this configuration keeps of so many tokens, in bf16."""
    values = 2 * lm.num_hidden_layers * lm.num_key_value_heads * lm.head_dim
    return float(values * BF16_BYTES * tokens)


def weigh(
    name: str,
    spec: MemorySpec,
    texts: dict[str, str],
    split: dict[str, list[Passage]],
    quantiser: SlotQuantiser | None,
) -> str:
    """Write a home of these documents. Returns: its row."""
    random_ = np.random.default_rng(0)
    codes = random_.standard_normal((spec.slots, spec.z_dim), np.float32)  # (m, d)

    def remember(job: Job) -> Sequence[PassageMemory]:
        return [
            PassageMemory(
                codes=codes,
                key=random_.standard_normal(spec.z_dim, np.float32),
                text_start=passage.start,
                text_end=passage.end,
                num_tokens=len(passage.token_ids),
                stats={},
            )
            for passage in split[job.document_id]
        ]

    with tempfile.TemporaryDirectory() as directory:
        with MemoryStore.open(Path(directory)) as store:
            if quantiser is not None:
                store.register_quantiser(spec.fingerprint, quantiser)
            store.put_collection("default", spec)
            names = list(texts)
            for start in range(0, len(names), BATCH):
                requests = [
                    WriteRequest(texts[name], name, mode=WriteMode.FAST)
                    for name in names[start : start + BATCH]
                ]
                write_together(store, spec, requests, remember)
            store.rebuild_index()
        with MemoryStore.open(Path(directory)) as store:  # closed once: SQLite's log is folded in
            stats = store.stats()
    passages = sum(map(len, split.values()))
    rest = stats.catalogue_bytes - stats.text_bytes
    parts = (stats.shard_bytes, stats.text_bytes, rest, stats.index_bytes)
    cells = " | ".join(f"{part / passages:,.0f}" for part in (*parts, sum(parts)))
    return f"| {name} | {cells} |"


if __name__ == "__main__":
    main()
