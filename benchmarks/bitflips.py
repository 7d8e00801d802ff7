"""Flip bits in every kind of file of a home, one at a time, and look at what the store then says.

    python -m benchmarks.bitflips --flips 2000

A flip is *detected* (a house error, or a memory left out and counted), *rebuilt* (the index, from
shards), *unread* (everything is served as before, doctor finds it), *harmless* (as before, nothing
to find), *served* (something else is served, and doctor finds it or not), or *raw* (an exception
that is not the house's).
"""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.command import say
from benchmarks.homes import write_together
from memory_store import (
    CodeFormat,
    Document,
    MemorySpec,
    MemoryStore,
    NotFoundError,
    PassageMemory,
    StoreError,
    WriteMode,
    WriteRequest,
)
from memory_store.catalogue.documents import compress
from memory_store.shards.shard import LENGTH_BYTES

SPEC = MemorySpec("bundle-1", slots=2, z_dim=8, code_format=CodeFormat.INT8)
DOCUMENTS = 12
DOCUMENTS_A_SHARD = 4
NOW = 1_000_000.0
View = Mapping[str, Any]


class Outcome(StrEnum):
    DETECTED = "detected"
    REBUILT = "rebuilt"
    UNREAD = "unread, doctor finds it"
    HARMLESS = "harmless"
    SERVED_FOUND = "served, doctor finds it"
    SERVED = "served"
    RAW = "raw"


@dataclass(frozen=True, slots=True)
class Target:
    """Bytes that are flipped: a file, or part of one."""

    kind: str
    home: Path
    file: str  # below the home
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Homes:
    """Two copies of one home: closed; and as a killed process leaves it, with SQLite's log."""

    closed: Path
    killed: Path
    view: View  # what they serve


def make_homes(root: Path) -> Homes:
    closed, killed = root / "closed", root / "killed"
    with _open(closed) as store:
        store.put_collection("default", SPEC)
        _write(store, range(DOCUMENTS // 2))
    with _open(closed) as store:
        _write(store, range(DOCUMENTS // 2, DOCUMENTS))
        store.delete_document("default", "document-0")
        view = look(store)
        store.save_index()
        shutil.copytree(closed, killed)
    return Homes(closed, killed, view)


def targets(homes: Homes) -> list[Target]:
    """Every kind of file, and the parts that are guarded in another way than their file."""
    found = []
    for path in sorted(path for path in homes.closed.rglob("*") if path.is_file()):
        name, data = str(path.relative_to(homes.closed)), path.read_bytes()
        spans: dict[str, list[tuple[int, int]]]
        if path.suffix == ".safetensors":
            data_start = LENGTH_BYTES + int.from_bytes(data[:LENGTH_BYTES], "little")
            spans = {"shard header": [(0, data_start)], "shard tensors": [(data_start, len(data))]}
        elif path.suffix == ".faiss":
            spans = {"index": [(0, len(data))]}
        elif path.suffix == ".db":
            spans = {"catalogue": [(0, len(data))], "kept texts": list(_frames(data))}
        else:
            continue  # locks are empty, and the mark is about a log
        found += [
            Target(kind, homes.closed, name, *span) for kind, all_ in spans.items() for span in all_
        ]
    for kind, name in (
        ("catalogue's log", "catalogue.db-wal"),
        ("mark of its commits", "catalogue.db-mark"),
    ):
        size = (homes.killed / name).stat().st_size
        found.append(Target(kind, homes.killed, name, 0, size))
    return found


def flip(home: Path, target: Target, bit: int) -> None:
    path = home / target.file
    data = bytearray(path.read_bytes())
    data[target.start + bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def judge(home: Path, before: View) -> Outcome:
    """Open a home with a flipped bit and compare."""
    try:
        with _open(home) as store:
            after = look(store)
            stats = store.stats()
            found = bool(store.check())
    except StoreError:
        return Outcome.DETECTED
    except Exception:
        return Outcome.RAW
    if any(isinstance(value, StoreError) for value in after.values()) or stats.checksum_failures:
        return Outcome.DETECTED
    if after != before:
        return Outcome.SERVED_FOUND if found else Outcome.SERVED
    if stats.index_rebuilds:
        return Outcome.REBUILT
    return Outcome.UNREAD if found else Outcome.HARMLESS


def look(store: MemoryStore) -> View:
    """Everything the store serves; where it refuses, the refusal."""
    seen: dict[str, Any] = {}

    def see(what: str, ask: Callable[[], Any]) -> Any:
        try:
            seen[what] = ask()
        except StoreError as refusal:
            seen[what] = refusal
        return seen[what]

    see("collections", store.collections)
    see("documents", store.documents)
    see("jobs", lambda: store.jobs.list(limit=1000))
    for number in range(DOCUMENTS):
        name = f"document-{number}"
        see(f"text of {name}", partial(store.document_text, "default", name))
        document = see(name, partial(store.document, "default", name))
        if isinstance(document, Document):
            see(f"codes of {name}", partial(_codes, store, document))
        see(f"hits of {name}", partial(_hits, store, number))
        see(f"hits of {name} by metadata", partial(_hits, store, number, {"number": number}))
    return {what: _plain(value) for what, value in seen.items()}


def try_flips(
    homes: Homes, chosen: Sequence[tuple[Target, int]]
) -> Iterator[tuple[Target, int, Outcome]]:
    """One flip at a time, each in a copy of the home."""
    for target, bit in chosen:
        with tempfile.TemporaryDirectory() as directory:
            copy = Path(directory) / "home"
            shutil.copytree(target.home, copy)
            flip(copy, target, bit)
            yield target, bit, judge(copy, homes.view)


def choose(homes: Homes, flips: int, random_: random.Random) -> list[tuple[Target, int]]:
    """So many flips of each kind, at random bits."""
    by_kind: dict[str, list[Target]] = {}
    for target in targets(homes):
        by_kind.setdefault(target.kind, []).append(target)
    chosen = []
    for kind in sorted(by_kind):
        sizes = [target.end - target.start for target in by_kind[kind]]
        for target in random_.choices(by_kind[kind], weights=sizes, k=flips):
            chosen.append((target, 8 * _filled_byte(target, random_) + random_.randrange(8)))
    return chosen


def _codes(store: MemoryStore, document: Document) -> list[Any]:
    return [code.tolist() for code in store.load_codes(document.memories)]


def _hits(
    store: MemoryStore, number: int, filters: Mapping[str, Any] | None = None
) -> list[tuple[int, float]]:
    hits = store.select("default", _passage(number).key, 5, filters=filters)
    return [(hit.memory.memory_id, round(hit.score, 4)) for hit in hits]


def _filled_byte(target: Target, random_: random.Random) -> int:
    """One that is not zero: most of a small catalogue is empty pages, which say nothing."""
    data = (target.home / target.file).read_bytes()[target.start : target.end]
    while not data[at := random_.randrange(len(data))]:
        pass
    return at


def _open(home: Path) -> MemoryStore:
    return MemoryStore.open(home, orphan_grace_s=0.0, clock=lambda: NOW)


def _write(store: MemoryStore, numbers: Sequence[int]) -> None:
    requests = [
        WriteRequest(
            _text(number),
            f"document-{number}",
            title=f"Title {number}",
            metadata={"number": number},
            mode=WriteMode.FAST,
        )
        for number in numbers
    ]
    for start in range(0, len(requests), DOCUMENTS_A_SHARD):
        write_together(
            store,
            SPEC,
            requests[start : start + DOCUMENTS_A_SHARD],
            lambda job: [_passage(int(job.document_id.rpartition("-")[2]))],
        )


def _text(number: int) -> str:
    words = random.Random(number)
    return " ".join(f"w{words.getrandbits(24):x}" for _ in range(30))


def _passage(number: int) -> PassageMemory:
    rng = np.random.default_rng(number)
    key = rng.standard_normal(SPEC.z_dim).astype(np.float32)
    return PassageMemory(
        codes=rng.standard_normal((SPEC.slots, SPEC.z_dim)).astype(np.float32),
        key=key / np.linalg.norm(key),
        text_start=0,
        text_end=len(_text(number)),
        num_tokens=30,
        stats={"nats_per_token": 1.5},
    )


def _plain(value: Any) -> Any:
    """Not-found is an answer that may be compared, every other refusal a detection."""
    return str(value) if isinstance(value, NotFoundError) else value


def _frames(data: bytes) -> Iterator[tuple[int, int]]:
    """Where the compressed texts lie in a file of the catalogue."""
    for number in range(DOCUMENTS):
        body = compress(_text(number))
        at = data.find(body)
        while at >= 0:
            yield at, at + len(body)
            at = data.find(body, at + 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--flips", type=int, default=200, help="of each kind of file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", help="only these, e.g. catalogue index")
    parser.add_argument("--show", action="store_true", help="what was served, bit by bit")
    arguments = parser.parse_args()
    counts: dict[str, Counter[Outcome]] = {}
    with tempfile.TemporaryDirectory() as directory:
        homes = make_homes(Path(directory))
        chosen = choose(homes, arguments.flips, random.Random(arguments.seed))
        if arguments.kinds:
            chosen = [one for one in chosen if one[0].kind in arguments.kinds]
        for target, bit, outcome in try_flips(homes, chosen):
            counts.setdefault(target.kind, Counter())[outcome] += 1
            if arguments.show and outcome in (Outcome.SERVED, Outcome.RAW):
                byte = target.start + bit // 8
                say(f"{outcome}: {target.kind}, {target.file} byte {byte} bit {bit % 8}")
    say(f"| flipped in | tried | {' | '.join(Outcome)} |")
    say(f"|---|{'--:|' * (len(Outcome) + 1)}")
    for kind, count in counts.items():
        cells = " | ".join(str(count[outcome]) for outcome in Outcome)
        say(f"| {kind} | {count.total()} | {cells} |")


if __name__ == "__main__":
    main()
