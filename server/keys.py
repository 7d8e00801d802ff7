"""API keys: the grammar of the key file, and what a key lets its holder do.

A line is one key; blank lines and ``#`` comments are skipped::

    PLAIN-KEY                                           everything allowed
    NAME sha256:HEX scopes=read,write [collections=notes,wiki]
         [rate=10/s] [documents=10000] [bytes=1GB]      (one line)

Scopes: ``read`` (ask, look), ``write`` (write, delete memories, jobs), ``admin`` (create and delete
collections, snapshots). ``rate`` is per ``s``, ``m`` or ``h``; ``documents`` and ``bytes`` bound
what the key's collections hold (the whole store, for a key without ``collections``).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from server.errors import ApiError

SCOPES = ("read", "write", "admin")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
RATE = re.compile(r"([1-9][0-9]{0,8})/([smh])")
SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}
COUNT = re.compile(r"[1-9][0-9]{0,17}")
SIZE = re.compile(r"([1-9][0-9]{0,11})(B|kB|MB|GB|TB)?")
BYTES = {None: 1, "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


class KeyLineError(ValueError):
    """What is wrong with a line. Never quotes the line: it may be a key."""


@dataclass(frozen=True, slots=True)
class Rate:
    """At most ``count`` requests at once, and ``count`` in ``period_s`` seconds on."""

    count: int
    period_s: float


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What one key may do. The key itself is never kept, only its digest."""

    name: str
    digest: bytes = field(repr=False)
    scopes: frozenset[str] = frozenset(SCOPES)
    collections: frozenset[str] | None = None  # None: all
    rate: Rate | None = None
    max_documents: int | None = None
    max_bytes: int | None = None

    def sees(self, collection: str) -> bool:
        return self.collections is None or collection in self.collections

    def check_collection(self, collection: str) -> None:
        """Raises: ApiError 403, whether the collection exists or not."""
        if not self.sees(collection):
            raise ApiError(
                403,
                "collection_forbidden",
                f"this key does not open collection {collection!r}: use one of its own, or a key "
                "that has it",
                param="collection",
            )

    def among(self, collection: str | None) -> Sequence[str] | None:
        """The collections a list may show (None: all), for a client that named one or none.

        Raises: ApiError 403.
        """
        if collection is not None:
            self.check_collection(collection)
        return None if self.collections is None else sorted(self.collections)


ANYONE = ApiKey("anyone", b"")
"""Who asks a server that has no key file."""


def digest_of(key: bytes) -> bytes:
    """SHA-256, unsalted and fast on purpose: keys are 192 random bits, which no dictionary holds
    and nobody can search. Salts and slow hashes protect what people choose themselves."""
    return hashlib.sha256(key).digest()


def parse_keys(content: str) -> tuple[ApiKey, ...]:
    """The keys of a file, in its order.

    Raises:
        KeyLineError: names the line; a name or a key is there twice; or there is no key at all.
    """
    keys: list[ApiKey] = []
    line_of: dict[str | bytes, int] = {}
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip() or line.strip().startswith("#"):
            continue
        try:
            key = parse_line(line, number)
        except KeyLineError as error:
            raise KeyLineError(f"line {number} {error}") from None
        for unique in (key.name, key.digest):
            if unique in line_of:
                raise KeyLineError(f"line {number} repeats the name or key of {line_of[unique]}")
            line_of[unique] = number
        keys.append(key)
    if not keys:
        raise KeyLineError("holds no key: write one a line (`paramem keys new` makes them)")
    return tuple(keys)


def parse_line(line: str, number: int = 1) -> ApiKey:
    """Raises: KeyLineError."""
    first, *rest = line.split()
    if not rest:
        if DIGEST.fullmatch(first):
            raise KeyLineError("has a digest without a name: write NAME sha256:HEX scopes=…")
        # a colon cannot stand in a name: no line of the other form is named like this
        return ApiKey(f"line:{number}", digest_of(first.encode()))
    digest = DIGEST.fullmatch(rest[0])
    if not NAME.fullmatch(first) or digest is None:
        raise KeyLineError("is neither one plain key nor NAME sha256:HEX scopes=…")
    given: dict[str, str] = {}
    for option in rest[1:]:
        name, _, value = option.partition("=")
        if name not in OPTIONS or name in given:
            raise KeyLineError(f"has an option that is unknown or twice; known: {KNOWN}")
        given[name] = value
    if "scopes" not in given:
        raise KeyLineError("has no scopes=: name them, e.g. scopes=read,write")
    fields = {OPTIONS[name][0]: OPTIONS[name][1](value) for name, value in given.items()}
    return ApiKey(first, bytes.fromhex(digest[1]), **fields)


def _scopes(value: str) -> frozenset[str]:
    wanted = frozenset(value.split(","))
    if not wanted <= set(SCOPES):
        raise KeyLineError(f"has scopes= with others than {','.join(SCOPES)}")
    return wanted


def _collections(value: str) -> frozenset[str]:
    names = value.split(",")
    if not all(NAME.fullmatch(name) for name in names):
        raise KeyLineError("has collections= with what is not a collection's name")
    return frozenset(names)


def _rate(value: str) -> Rate:
    found = RATE.fullmatch(value)
    if found is None:
        raise KeyLineError("has rate= that is not like 10/s, 100/m or 1000/h")
    return Rate(int(found[1]), SECONDS[found[2]])


def _documents(value: str) -> int:
    if not COUNT.fullmatch(value):
        raise KeyLineError("has documents= that is not a number above 0")
    return int(value)


def _bytes(value: str) -> int:
    found = SIZE.fullmatch(value)
    if found is None:
        raise KeyLineError("has bytes= that is not like 500MB or 1GB")
    return int(found[1]) * BYTES[found[2]]


OPTIONS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "scopes": ("scopes", _scopes),
    "collections": ("collections", _collections),
    "rate": ("rate", _rate),
    "documents": ("max_documents", _documents),
    "bytes": ("max_bytes", _bytes),
}
KNOWN = ", ".join(OPTIONS)
