"""An endpoint under load: what it is, what it stores, what it uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from clients.client import Client
from clients.errors import ParamemError
from clients.evaluation.corpus import Report, prepare_corpus
from clients.evaluation.data import EvalDocument
from clients.results import Engine


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One server, with the documents in it."""

    name: str
    url: str
    engine: Engine
    passages: int
    row_bytes: float  # of a passage in the shards, mean
    documents_per_s: float | None  # of the writing just done; None: all were there
    store_bytes: Mapping[str, float]  # by what they hold
    resident_bytes: float | None


def prepare_endpoint(
    name: str, url: str, documents: Sequence[EvalDocument], collection: str, report: Report
) -> Endpoint:
    """Write the documents, as fast memories, and look at the server afterwards.

    Raises: ParamemError when it is still loading, or nothing can be written.
    """
    with Client(url) as client:
        engine = client.version().engine
        if engine is None:
            raise ParamemError(f"the engine of {url} is still loading; try again when ready")
        client.put_collection(collection)
        corpus = prepare_corpus(
            client, documents, collection=collection, mode="fast", report=report
        )
        gauges = read_gauges(client.metrics())
    passages = [passage for memory in corpus.memories for passage in memory.passages]
    return Endpoint(
        name,
        client.url,
        engine,
        passages=len(passages),
        row_bytes=sum(passage.bytes for passage in passages) / len(passages),
        documents_per_s=corpus.written / corpus.write_s if corpus.written else None,
        store_bytes={
            labels["kind"]: value for labels, value in gauges.get("paramem_store_bytes", [])
        },
        resident_bytes=next(
            (value for _, value in gauges.get("process_resident_memory_bytes", [])), None
        ),
    )


def read_gauges(text: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    """(labels, value) of each sample of Prometheus text, by name."""
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((dict(sample.labels), sample.value))
    return found
