"""Markdown and plain text files as documents."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

SUFFIXES = frozenset({".md", ".markdown", ".txt"})
STDIN = "-"
MOST_TITLE_CHARS = 200
HEADING = re.compile(r"^#{1,6}[ \t]+(.+?)[ \t]*#*[ \t]*$", re.MULTILINE)


class UnreadableFileError(Exception):
    """This file is not a document; the message says why and names it."""


@dataclass(frozen=True, slots=True)
class TextFile:
    document_id: str
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class FoundFile:
    """Where a document is, and the id it gets: its path below what was named."""

    path: Path
    document_id: str


def find_files(paths: Iterable[Path]) -> Iterator[FoundFile]:
    """Every file named, and every .md and .txt below every directory named, in order.

    A directory's files are named by their path below it; a file by the path as it was given,
    or by its name where that path leads out of the current directory.
    """
    for path in paths:
        if path.is_dir():
            for found in sorted(path.rglob("*")):
                hidden = any(part.startswith(".") for part in found.relative_to(path).parts)
                if found.is_file() and found.suffix.lower() in SUFFIXES and not hidden:
                    yield FoundFile(found, found.relative_to(path).as_posix())
        else:
            leads_out = path.is_absolute() or ".." in path.parts
            yield FoundFile(path, path.name if leads_out else path.as_posix())


def read_file(found: FoundFile) -> TextFile:
    """Raises: UnreadableFileError for a missing, binary, empty or not UTF-8 file."""
    try:
        data = sys.stdin.buffer.read() if found.path == Path(STDIN) else found.path.read_bytes()
    except OSError as error:
        raise UnreadableFileError(f"{found.path}: {error.strerror or error}") from error
    return decode_file(found, data)


def decode_file(found: FoundFile, data: bytes) -> TextFile:
    """Raises: UnreadableFileError for binary, empty or not UTF-8 data."""
    if not found.document_id.isprintable():
        raise UnreadableFileError(f"{found.document_id!r}: rename it, its name is not printable")
    if b"\0" in data:
        raise UnreadableFileError(f"{found.path}: holds NUL bytes, so it is not text")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnreadableFileError(
            f"{found.path}: not UTF-8 (byte {error.start}); convert it with iconv first"
        ) from error
    if not text.strip():
        raise UnreadableFileError(f"{found.path}: empty")
    return TextFile(found.document_id, title_of(text) or found.path.stem, text)


def title_of(text: str) -> str | None:
    """The first Markdown heading, as one printable line."""
    heading = HEADING.search(text)
    if heading is None:
        return None
    line = "".join(char for char in heading.group(1) if char.isprintable())
    return line[:MOST_TITLE_CHARS].strip() or None
