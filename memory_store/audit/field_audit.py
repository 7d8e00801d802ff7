"""What filters search, against the metadata it is derived from."""

from __future__ import annotations

import json
from functools import partial

from memory_store.audit.finding import Finding
from memory_store.catalogue import documents, filters, row_sums
from memory_store.catalogue.filters import Parameter
from memory_store.records import Problem
from memory_store.storage import Storage

SOUND = row_sums.is_sound("documents", "documents")
Field = tuple[int, str, str, Parameter]  # collection_id, key, kind, value


def audit_fields(storage: Storage) -> list[Finding]:
    said: dict[int, set[Field]] = {}
    with storage.catalogue.read() as connection:
        for key, *field in connection.execute(
            "SELECT document_key, collection_id, key, kind, value FROM fields NOT INDEXED"
        ):
            said.setdefault(key, set()).add((field[0], field[1], field[2], field[3]))
        wrong = []
        for key, collection_id, metadata in connection.execute(
            f"SELECT document_key, collection_id, CASE WHEN {SOUND} THEN metadata END"
            " FROM documents"
        ):
            found = said.pop(key, set())
            if metadata is None:
                continue  # nothing may be derived from a damaged row
            fields = filters.searchable_fields(json.loads(metadata))
            if found != {(collection_id, *field) for field in fields}:
                wrong.append(key)
    return [
        Finding(
            Problem(
                "fields_wrong",
                f"what filters find of document row {key} is not what its metadata say",
                "derive it again",
            ),
            partial(_derive, storage, key),
        )
        for key in [*wrong, *said]
    ]


def _derive(storage: Storage, document_key: int) -> bool:
    with storage.catalogue.write() as connection:
        connection.execute("DELETE FROM fields WHERE document_key = ?", (document_key,))
        row = connection.execute(
            "SELECT collection_id, metadata FROM documents WHERE document_key = ?", (document_key,)
        ).fetchone()
        if row is not None:
            documents.insert_fields(connection, row[0], document_key, json.loads(row[1]))
    return True
