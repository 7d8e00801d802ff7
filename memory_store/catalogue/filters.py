"""Metadata filters: ``{"key": scalar or list of scalars}``, all keys must match, lists are any-of.

Equality is typed: ``true`` is not 1, ``"1"`` is not 1, and 1 equals 1.0. ``document_id`` and
``title`` are reserved for the document's own fields. Scalars only: metadata that is a list or an
object is stored and returned, but not searched.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from memory_store.errors import InvalidFilterError

RESERVED = ("document_id", "title")
INT64_MAX = 2**63 - 1
Parameter = str | int | float


def searchable_fields(metadata: Mapping[str, Any]) -> list[tuple[str, str, Parameter]]:
    """(key, kind, value) of every scalar in ``metadata``."""
    fields = []
    for key, value in metadata.items():
        scalar = _scalar(value)
        if scalar is not None:
            fields.append((key, *scalar))
    return fields


def compile_filters(filters: Mapping[str, Any], collection_id: int) -> tuple[str, list[Parameter]]:
    """A SQL condition on the alias ``d`` of ``documents``, and its parameters.

    Raises:
        InvalidFilterError: names the key.
    """
    conditions: list[str] = []
    parameters: list[Parameter] = []
    for key, wanted in filters.items():
        if not isinstance(key, str):
            raise InvalidFilterError(f"filter key {key!r} must be a string", param="filters")
        scalars = [_checked(key, value) for value in _alternatives(wanted)]
        if key in RESERVED:
            texts = [value for kind, value in scalars if kind == "text"]
            if len(texts) != len(scalars):
                raise InvalidFilterError(
                    f"filter {key!r} must be a string or a list of strings", param=f"filters.{key}"
                )
            conditions.append(f"d.{key} IN (SELECT value FROM json_each(?))")
            parameters.append(json.dumps(texts))
            continue
        any_of = []
        for kind in sorted({kind for kind, _ in scalars}):
            any_of.append("(kind = ? AND value IN (SELECT value FROM json_each(?)))")
            parameters += [kind, json.dumps([value for k, value in scalars if k == kind])]
        # parameters of the subquery come before those of its alternatives
        at = len(parameters) - 2 * len(any_of)
        parameters[at:at] = [collection_id, key]
        conditions.append(
            "d.document_key IN (SELECT document_key FROM fields"
            f" WHERE collection_id = ? AND key = ? AND ({' OR '.join(any_of) or '0'}))"
        )
    return " AND ".join(conditions) or "1", parameters


def _alternatives(wanted: Any) -> list[Any]:
    return list(wanted) if isinstance(wanted, list | tuple) else [wanted]


def _checked(key: str, value: Any) -> tuple[str, Parameter]:
    scalar = _scalar(value)
    if scalar is None:
        raise InvalidFilterError(
            f"filter {key!r} cannot compare with {value!r}; use a string, number, boolean or null,"
            " or a list of them",
            param=f"filters.{key}",
        )
    return scalar


def _scalar(value: Any) -> tuple[str, Parameter] | None:
    if value is None:
        return "null", 0
    if isinstance(value, bool):
        return "bool", int(value)
    if isinstance(value, str):
        return "text", value
    if isinstance(value, int) and abs(value) <= INT64_MAX:
        return "number", value
    if isinstance(value, float) and math.isfinite(value):
        return "number", value
    return None
