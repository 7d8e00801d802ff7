"""Writing a collection's documents again into another one: after a change of model or bundle.

The old memories stay readable, with the bundle that wrote them, until their collection is deleted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from memory_store.errors import ConflictError, QueueFullError
from memory_store.records import Document, WriteMode, WriteRequest
from memory_store.store import MemoryStore


@dataclass(frozen=True, slots=True)
class ReencodingReport:
    """What was queued, and what could not be: documents whose text was not kept."""

    queued: int
    without_text: tuple[str, ...]


def reencode(
    store: MemoryStore,
    source: str,
    target: str,
    *,
    mode: WriteMode = WriteMode.AUTO,
    progress: Callable[[int], None] = lambda _done: None,
    sleep: Callable[[float], None] = time.sleep,
) -> ReencodingReport:
    """Queue every document of ``source`` for ``target``, under the same ids. Safe to repeat: the
    same version of a document is queued once in a mode. While the queue is full it waits for room.

    Raises:
        NotFoundError: one of the collections does not exist.
        ConflictError: they are one and the same.
        DiskFullError: what was queued until then stays queued.
    """
    if source == target:
        raise ConflictError("source and target are the same collection: name another target")
    store.collection(target)
    store.collection(source)
    queued, without_text = 0, []
    for done, document in enumerate(_documents(store, source), 1):
        text = store.document_text(source, document.document_id)
        if text is None:
            without_text.append(document.document_id)
        else:
            request = WriteRequest(
                text=text,
                document_id=document.document_id,
                title=document.title,
                metadata=document.metadata,
                collection=target,
                mode=mode,
            )
            version = f"{document.document_id}:{document.version}"
            _submit(store, request, f"reencode:{source}:{target}:{mode}:{version}", sleep)
            queued += 1
        progress(done)
    return ReencodingReport(queued, tuple(without_text))


def _documents(store: MemoryStore, collection: str) -> Iterator[Document]:
    cursor = None
    while True:
        page = store.documents(collection=collection, cursor=cursor)
        yield from page.items
        cursor = page.next_cursor
        if cursor is None:
            return


def _submit(
    store: MemoryStore, request: WriteRequest, key: str, sleep: Callable[[float], None]
) -> None:
    while True:
        try:
            store.submit(request, idempotency_key=key)
        except QueueFullError as error:
            sleep(error.retry_after_s)
        else:
            return
