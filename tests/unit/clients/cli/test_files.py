from __future__ import annotations

import os
from pathlib import Path

import pytest

from clients.cli.files import (
    FoundFile,
    UnreadableFileError,
    decode_file,
    find_files,
    read_file,
    title_of,
)


def test_a_directory_gives_its_text_files_by_their_path_below_it(tmp_path: Path) -> None:
    for name in ("b.md", "sub/a.txt", "sub/B.MD", "image.png", ".git/x.md", "sub/.hidden.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    assert [found.document_id for found in find_files([tmp_path])] == [
        "b.md",
        "sub/B.MD",
        "sub/a.txt",
    ]


def test_a_named_file_keeps_the_path_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = [Path("notes/a.log"), Path("../out.md"), Path("/abs/b.md")]
    assert [found.document_id for found in find_files(names)] == ["notes/a.log", "out.md", "b.md"]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b" \n\t ", "empty"),
        (b"text\0text", "NUL"),
        ("grün".encode("latin-1"), r"not UTF-8 \(byte 2\)"),
    ],
)
def test_what_is_no_text_is_refused_by_name(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "odd.md"
    path.write_bytes(data)
    with pytest.raises(UnreadableFileError, match=rf"odd\.md: .*{reason}|odd\.md: {reason}"):
        read_file(FoundFile(path, "odd.md"))


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFileError, match=r"gone\.md: No such file"):
        read_file(FoundFile(tmp_path / "gone.md", "gone.md"))


@pytest.mark.skipif(os.name != "posix", reason="file names are bytes on POSIX only")
def test_a_file_whose_name_is_not_utf8_is_refused() -> None:
    with pytest.raises(UnreadableFileError, match="rename it"):
        decode_file(FoundFile(Path("x"), os.fsdecode(b"gr\xfcn.md")), b"text")


def test_a_byte_order_mark_is_not_part_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "bom.md"
    path.write_bytes(b"\xef\xbb\xbf# Title\n\nText")
    file = read_file(FoundFile(path, "bom.md"))
    assert file.text.startswith("# Title")
    assert file.title == "Title"


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("intro\n\n## Second level ##\n# First", "Second level"),
        ("#hashtag is no heading", None),
        ("plain", None),
        ("# a\x07b\tc", "abc"),
        ("# " + "x" * 500, "x" * 200),
        ("#  ", None),
    ],
)
def test_the_title_is_the_first_heading(text: str, title: str | None) -> None:
    assert title_of(text) == title


def test_without_a_heading_the_file_name_is_the_title(tmp_path: Path) -> None:
    (tmp_path / "harbour.txt").write_text("ships")
    assert read_file(FoundFile(tmp_path / "harbour.txt", "harbour.txt")).title == "harbour"
