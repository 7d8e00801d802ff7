"""An app whose OpenAPI says what its errors are, and who needs a key."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

KEYLESS = "operations"  # the tag of routes that need no key, or none in particular
SCHEMES = {
    "HTTPBearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "Needed when the server has a key file.",
    }
}


class DescribedApp(FastAPI):
    """FastAPI documents a route's errors in the media type of its success; ours are JSON always,
    also where the success is a stream of events or lines.

    And it documents keys by a dependency, which every request would solve for nothing: the
    middleware in ``server/auth.py`` has asked for the key by then.
    """

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            schema = super().openapi()
            schema["components"]["securitySchemes"] = SCHEMES
            for operations in schema["paths"].values():
                for operation in operations.values():
                    if KEYLESS not in operation["tags"]:
                        operation["security"] = [{name: []} for name in SCHEMES]
                    for status, response in operation["responses"].items():
                        if status[0] in "45" and response.get("content"):
                            [content] = response["content"].values()
                            response["content"] = {"application/json": content}
        return super().openapi()
