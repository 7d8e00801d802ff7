"""An app whose OpenAPI says what its errors really are."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI


class DescribedApp(FastAPI):
    """FastAPI documents a route's errors in the media type of its success; ours are JSON always,
    also where the success is a stream of events or lines."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            for operations in super().openapi()["paths"].values():
                for operation in operations.values():
                    for status, response in operation["responses"].items():
                        if status[0] in "45" and response.get("content"):
                            [content] = response["content"].values()
                            response["content"] = {"application/json": content}
        return super().openapi()
