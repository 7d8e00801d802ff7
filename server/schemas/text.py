"""Which strings are text. Refused ones get a message that says what to send instead."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from pydantic import AfterValidator, StringConstraints
from pydantic_core import PydanticCustomError, to_json

CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f\ufffd]")
MOST_CONTROL = 0.01
"""Share of control and replacement characters above which a text is taken for a binary file;
below, it may be a log with colours or a page with a form feed."""
MAX_QUERY_CHARS = 32_768
MAX_METADATA_KEYS = 64
MAX_METADATA_BYTES = 16 << 10
COLLECTION_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
RECONSTRUCTION = "/reconstruction"


def check_text(value: str) -> str:
    if not value.strip():
        raise PydanticCustomError("text_empty", "must not be empty or only white space")
    position = value.find("\x00")
    if position >= 0:
        raise PydanticCustomError(
            "text_nul",
            "contains a NUL byte at character {position}: send text, not a binary file",
            {"position": position},
        )
    if len(CONTROL.findall(value)) > MOST_CONTROL * len(value):
        raise PydanticCustomError(
            "text_binary", "looks binary (control characters): send text, decoded as UTF-8"
        )
    return value


def check_line(value: str) -> str:
    if not value.strip() or CONTROL.search(value) or "\n" in value or "\r" in value:
        raise PydanticCustomError(
            "line_invalid", "must be one line, not empty, without control characters"
        )
    return value


def check_document_id(value: str) -> str:
    if value.endswith(RECONSTRUCTION):
        raise PydanticCustomError(
            "document_id_reserved", "must not end in /reconstruction, which is a route"
        )
    return check_line(value)


def check_metadata(value: dict[str, Any]) -> dict[str, Any]:
    """Flat: scalars, or lists of scalars; what ``filters`` can match."""
    if len(value) > MAX_METADATA_KEYS:
        raise PydanticCustomError(
            "metadata_keys", "has more than {most} keys", {"most": MAX_METADATA_KEYS}
        )
    for key, item in value.items():
        check_line(key)
        items = item if isinstance(item, list) else [item]
        if not all(_is_scalar(element) for element in items):
            raise PydanticCustomError(
                "metadata_value",
                "key {key} must hold a string without NUL, a finite number, a boolean or null, "
                "or a list of those",
                {"key": repr(key[:64])},
            )
    if len(to_json(value)) > MAX_METADATA_BYTES:
        raise PydanticCustomError(
            "metadata_too_large", "is above {most} bytes as JSON", {"most": MAX_METADATA_BYTES}
        )
    return value


def _is_scalar(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, str):
        return "\x00" not in value
    return value is None or isinstance(value, int)


Text = Annotated[str, AfterValidator(check_text)]
QueryText = Annotated[
    str, StringConstraints(max_length=MAX_QUERY_CHARS), AfterValidator(check_text)
]
Title = Annotated[str, StringConstraints(max_length=1024), AfterValidator(check_line)]
DocumentId = Annotated[str, StringConstraints(max_length=256), AfterValidator(check_document_id)]
CollectionName = Annotated[str, StringConstraints(pattern=COLLECTION_PATTERN)]
Metadata = Annotated[dict[str, Any], AfterValidator(check_metadata)]
