"""Opaque cursors for keyset paging: the key of the last item of a page."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence

from memory_store.errors import InvalidCursorError
from memory_store.records import Item, Page

MAX_LIMIT = 1000


def page_of(rows: Sequence[Item], limit: int, key: Callable[[Item], Sequence[str]]) -> Page[Item]:
    """Cut a page from ``rows``, which hold one item more than ``limit`` if there is a next page."""
    items = rows[:limit]
    more = len(rows) > limit
    return Page(items, encode_cursor(key(items[-1])) if more else None)


def clamp_limit(limit: int) -> int:
    return max(1, min(limit, MAX_LIMIT))


def encode_cursor(key: Sequence[str]) -> str:
    return base64.urlsafe_b64encode(json.dumps(list(key)).encode()).decode().rstrip("=")


def decode_cursor(cursor: str, parts: int) -> list[str]:
    """Undo :func:`encode_cursor`.

    Raises:
        InvalidCursorError: this store did not make it, or made it for another list.
    """
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        key = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except ValueError:
        key = None
    if (
        not isinstance(key, list)
        or len(key) != parts
        or not all(isinstance(part, str) for part in key)
    ):
        raise InvalidCursorError(
            "cursor was not made by this list; start again without one", param="cursor"
        )
    return key
