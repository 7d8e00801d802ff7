"""Query parameters of every list."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

MAX_PAGE = 1000

Cursor = Annotated[str | None, Query(max_length=1024, description="next_cursor of the last page.")]
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE)]
