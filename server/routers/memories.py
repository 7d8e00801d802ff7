"""``/memories``: what is remembered, document by document."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from server.auth import Caller, OwnCollection
from server.disconnect import unless_disconnected
from server.errors import ApiError
from server.json_body import parse_json
from server.paging import Cursor, Limit
from server.reconstruction import reconstruct
from server.schemas.results import (
    DeletedResult,
    ListResult,
    MemoryDetail,
    MemoryResult,
    ReconstructionResult,
)
from server.services import ServicesDep, ServingDep

router = APIRouter(prefix="/memories", tags=["memories"])


@router.get("", summary="List documents")
async def list_memories(
    services: ServicesDep,
    key: Caller,
    collection: Annotated[str | None, Query()] = None,
    cursor: Cursor = None,
    limit: Limit = 100,
) -> ListResult[MemoryResult]:
    page = await services.read(
        services.store.documents,
        collection=collection,
        among=key.among(collection),
        cursor=cursor,
        limit=limit,
    )
    items = [MemoryResult.of(document) for document in page.items]
    return ListResult(items=items, next_cursor=page.next_cursor)


@router.delete("", summary="Delete by metadata")
async def delete_memories(
    services: ServicesDep,
    collection: OwnCollection,
    filter: Annotated[str, Query(description='JSON object, e.g. `{"year": [2024, 2025]}`.')],
) -> DeletedResult:
    """Delete every document whose metadata match. An empty filter is refused."""
    filters = parse_json(filter.encode("utf-8", "surrogatepass"), what="filter", param="filter")
    if not isinstance(filters, dict):
        raise ApiError(
            422, "dict_type", 'filter: must be a JSON object like {"key": "value"}', param="filter"
        )
    deleted = await services.write(services.store.delete_documents, collection, filters)
    return DeletedResult(deleted=deleted)


# Before the routes that take any path, or they would swallow it.
@router.get("/{document_id:path}/reconstruction", summary="Recite a document from its memories")
async def get_reconstruction(
    document_id: str,
    request: Request,
    services: ServingDep,
    collection: OwnCollection,
    max_new_tokens: Annotated[
        int | None, Query(ge=1, description="A passage; by default as long as what was written.")
    ] = None,
) -> ReconstructionResult:
    """Decode each passage's z back to text with the engine, greedily."""
    if max_new_tokens is not None and max_new_tokens > services.settings.max_new_tokens:
        most = services.settings.max_new_tokens
        raise ApiError(
            422,
            "less_than_equal",
            f"max_new_tokens: this server's limit is {most}",
            param="max_new_tokens",
        )
    with services.admit_query(), services.store.right_of_way.held():
        document = await services.read(services.store.document, collection, document_id)
        services.check_readable(await services.read(services.store.collection, collection))
        work = reconstruct(services, document, max_new_tokens)
        return await unless_disconnected(request, work)


@router.get("/{document_id:path}", summary="One document")
async def get_memory(
    document_id: str, services: ServicesDep, collection: OwnCollection
) -> MemoryDetail:
    """Ids may hold slashes."""
    document = await services.read(services.store.document, collection, document_id)
    return MemoryDetail.of(document)


@router.delete("/{document_id:path}", status_code=204, summary="Forget a document")
async def delete_memory(
    document_id: str, services: ServicesDep, collection: OwnCollection
) -> Response:
    """Unreadable at once; its bytes are gone after the next compaction."""
    await services.write(services.store.delete_document, collection, document_id)
    return Response(status_code=204)
