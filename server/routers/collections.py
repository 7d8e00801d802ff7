"""``/collections``: each pins the fingerprint and shape of the memories that may enter it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Response

from server.auth import Caller
from server.json_body import JsonRoute
from server.paging import Cursor, Limit
from server.schemas.requests import CollectionBody
from server.schemas.results import CollectionResult, ListResult
from server.schemas.text import COLLECTION_PATTERN
from server.services import ServicesDep, ServingDep

router = APIRouter(prefix="/collections", route_class=JsonRoute, tags=["collections"])


async def own_name(name: Annotated[str, Path(pattern=COLLECTION_PATTERN)], key: Caller) -> str:
    """Raises: ApiError 403."""
    key.check_collection(name)
    return name


Name = Annotated[str, Depends(own_name)]


@router.get("", summary="List collections")
async def list_collections(
    services: ServicesDep, key: Caller, cursor: Cursor = None, limit: Limit = 100
) -> ListResult[CollectionResult]:
    page = await services.read(
        services.store.collections, among=key.among(None), cursor=cursor, limit=limit
    )
    items = [CollectionResult.of(collection) for collection in page.items]
    return ListResult(items=items, next_cursor=page.next_cursor)


@router.put("/{name}", summary="Create a collection")
async def put_collection(
    name: Name, services: ServingDep, body: CollectionBody | None = None
) -> CollectionResult:
    """For memories of the loaded engine. The same again changes nothing; other values for an
    existing name are a conflict."""
    spec = (body or CollectionBody()).spec(services.engine_info().spec)
    return CollectionResult.of(await services.write(services.store.put_collection, name, spec))


@router.get("/{name}", summary="One collection")
async def get_collection(name: Name, services: ServicesDep) -> CollectionResult:
    return CollectionResult.of(await services.read(services.store.collection, name))


@router.delete("/{name}", status_code=204, summary="Delete a collection")
async def delete_collection(name: Name, services: ServicesDep) -> Response:
    """With everything in it. The name is free again."""
    await services.write(services.store.delete_collection, name)
    return Response(status_code=204)
