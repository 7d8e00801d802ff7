"""Strict JSON: what is not JSON, not UTF-8 or not Unicode is refused, everything else is kept."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paramem.settings import load_settings
from server.errors import ApiError
from server.json_body import max_body_bytes, parse_json

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10
)


@given(VALUES, st.booleans())
def test_what_json_can_say_comes_back_as_it_was(value: object, ascii_only: bool) -> None:
    if "Infinity" in json.dumps(value, ensure_ascii=True).replace('"', " "):
        return
    assert parse_json(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@given(st.binary(max_size=40))
def test_no_bytes_do_anything_but_parse_or_be_refused(raw: bytes) -> None:
    with suppress(ApiError):
        parse_json(raw)


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "[1, NaN]", '{"a": NaN}'])
def test_what_only_python_calls_json_is_refused(literal: str) -> None:
    with pytest.raises(ApiError, match="not a JSON number") as caught:
        parse_json(literal.encode())
    assert caught.value.status_code == 400


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        (rb'{"text": "\ud83d"}', "text"),
        (rb'{"a": {"b": ["\udc00"]}}', "a"),
        (rb'["\ud800"]', None),
        (rb'{"\ud800": 1}', None),
    ],
)
def test_half_a_surrogate_pair_is_refused_and_its_field_named(
    raw: bytes, field: str | None
) -> None:
    with pytest.raises(ApiError) as caught:
        parse_json(raw)
    assert (caught.value.code, caught.value.param) == ("lone_surrogate", field)


def test_a_whole_surrogate_pair_is_a_character() -> None:
    assert parse_json(rb'{"text": "\ud83d\ude00"}') == {"text": "😀"}


def test_the_body_limit_leaves_room_for_escapes() -> None:
    settings = load_settings(max_document_bytes=4096)
    for character in ("я", "字", "😀"):
        text = character * (4096 // len(character.encode()))
        assert len(json.dumps({"text": text})) <= max_body_bytes(settings)
