"""What counts as text, and what metadata may hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import PydanticCustomError

from server.schemas.text import check_document_id, check_metadata, check_text


@given(st.text(st.characters(exclude_categories=["Cc", "Cs", "Co", "Cn"]), min_size=1))
def test_printable_text_of_any_script_is_text(value: str) -> None:
    if value.strip() and "\ufffd" not in value:
        assert check_text(value) == value


@pytest.mark.parametrize(
    "value", ["tabs\tand\nlines\r\n", "page\x0cbreak " * 10, "naïve 静か 🙂", "x" * 200 + "\x1b"]
)
def test_white_space_and_a_rare_control_character_are_fine(value: str) -> None:
    assert check_text(value) == value


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("", "text_empty"),
        ("\u2003\u00a0", "text_empty"),
        ("a\0", "text_nul"),
        ("\x01\x02", "text_binary"),
        ("\ufffd\ufffd decoded with errors replaced", "text_binary"),
    ],
)
def test_what_is_not_text_is_refused(value: str, code: str) -> None:
    with pytest.raises(PydanticCustomError) as caught:
        check_text(value)
    assert caught.value.type == code


def test_a_nul_is_located() -> None:
    with pytest.raises(PydanticCustomError, match="character 3"):
        check_text("abc\0")


@pytest.mark.parametrize("value", ["", " ", "a\nb", "a\x7f", "x/reconstruction"])
def test_an_id_is_one_line_and_no_route(value: str) -> None:
    with pytest.raises(PydanticCustomError):
        check_document_id(value)


@pytest.mark.parametrize("value", [{"a": float("nan")}, {"a": {}}, {"a": [[]]}, {"a": "\0"}])
def test_metadata_hold_only_what_filters_can_match(value: dict[str, object]) -> None:
    with pytest.raises(PydanticCustomError) as caught:
        check_metadata(value)
    assert caught.value.type == "metadata_value"
    assert "'a'" in caught.value.message()
