"""A document to write, and batches of them."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from clients.errors import TooLargeError
from clients.results import BatchLine, ErrorBody, WriteMode
from clients.retries import RetryPolicy

BATCH_DOCUMENTS = 100
BATCH_CHARS = 2_000_000
MOST_IDLE_ROUNDS = 60


class Document(BaseModel):
    """What ``POST /write`` takes. An ``id`` that exists is replaced by a new version."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    id: str | None = None  # None: the server makes one
    title: str | None = None
    metadata: dict[str, Any] = {}
    collection: str = "default"
    mode: WriteMode = "auto"
    keep_text: bool = True


def split_batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Batches small enough for one request.

    A document without an id gets one here: a batch sent twice then stores nothing twice.
    """
    batch: list[Document] = []
    num_chars = 0
    for document in documents:
        if batch and (
            len(batch) == BATCH_DOCUMENTS or num_chars + len(document.text) > BATCH_CHARS
        ):
            yield batch
            batch, num_chars = [], 0
        named = document if document.id else document.model_copy(update={"id": uuid.uuid4().hex})
        batch.append(named)
        num_chars += len(document.text)
    if batch:
        yield batch


class PendingBatch:
    """What is left to send of a batch, round by round.

    Documents refused because the write queue is full stay pending as long as some get through
    now and then. A round the server finds too large is sent again in halves.
    """

    def __init__(self, documents: Sequence[Document], policy: RetryPolicy) -> None:
        self._pending = list(documents)
        self._round_size = len(documents)
        self._pause_s = policy.longest_wait_s / 5
        self._patience = MOST_IDLE_ROUNDS if policy.attempts > 1 else 0
        self._idle_rounds = 0

    @property
    def next_round(self) -> list[Document]:
        """What to send next; empty when everything is settled."""
        return self._pending[: self._round_size]

    @property
    def pause_s(self) -> float:
        """How long to wait before the next round."""
        return self._pause_s if self._pending and self._idle_rounds else 0.0

    def settle(self, lines: Sequence[BatchLine]) -> list[BatchLine]:
        """Take the answer to a round; return the lines that are final."""
        sent, rest = self.next_round, self._pending[len(lines) :]
        again = [
            document
            for document, line in zip(sent, lines, strict=True)
            if line.error is not None and line.error.code == "queue_full"
        ]
        stuck = len(again) == len(lines)
        self._idle_rounds = self._idle_rounds + 1 if stuck else int(bool(again))
        if self._idle_rounds > self._patience:
            again = []
        self._pending = again + rest
        waiting = {document.id for document in again}
        return [line for line in lines if line.document_id not in waiting]

    def refuse(self, error: TooLargeError) -> list[BatchLine]:
        """Take the refusal of a round as a whole; return the lines that are final."""
        sent = self.next_round
        if len(sent) > 1:
            self._round_size = len(sent) // 2
            return []
        self._pending = self._pending[1:]
        body = ErrorBody(code=error.code, message=error.message, param=error.param)
        return [BatchLine(document_id=str(sent[0].id), error=body)]
