"""Clients of a soak: owners that write, replace and delete their documents, readers that check.

They know nothing of the kills but what a client sees: broken connections, to be tried again with
the same key.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from clients.client import Client
from clients.errors import APIError, ConnectionError, NotFoundError, ParamemError
from clients.results import Answer, WriteMode
from clients.retries import RetryPolicy, is_temporary
from clients.soak.ledger import Entry, Ledger

OWNERS = 4
READERS = 2
DOCUMENTS_OF_AN_OWNER = 250
PAUSE_S = 0.1
THREAD = "soak client"
WORDS = 12
MODES: tuple[WriteMode, ...] = ("fast", "auto")
SAME_TEXT = 0.98
"""Least score of a text asked for with its own words: the hashes of others score far below."""
PATIENT = RetryPolicy(attempts=10_000, first_wait_s=0.05, longest_wait_s=0.5, patience_s=600.0)


@contextmanager
def traffic(url: str, ledger: Ledger, seed: int) -> Iterator[None]:
    """Runs while the block does; on leaving, every client has finished what it had begun."""
    stop = threading.Event()
    clients: list[Callable[[Client, Ledger, random.Random], None]] = [
        *(_owner_step(number) for number in range(OWNERS)),
        *([read_one] * READERS),
    ]
    threads = [
        threading.Thread(
            target=_run,
            name=THREAD,
            args=(url, ledger, random.Random(f"{seed}-{number}"), step, stop),
            daemon=True,  # a soak that fails does not wait for clients without a server
        )
        for number, step in enumerate(clients)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
    for thread in threads:  # what a client is told after the audit has looked would be held to it
        thread.join()


def _run(
    url: str,
    ledger: Ledger,
    random_: random.Random,
    step: Callable[[Client, Ledger, random.Random], None],
    stop: threading.Event,
) -> None:
    with Client(url, retries=PATIENT, timeout_s=60.0) as client:
        while not stop.wait(random_.uniform(0, PAUSE_S)):
            try:
                step(client, ledger, random_)
            except ParamemError as error:
                ledger.accuse("answer", f"{type(error).__name__}: {error}")


def _owner_step(owner: int) -> Callable[[Client, Ledger, random.Random], None]:
    def step(client: Client, ledger: Ledger, random_: random.Random) -> None:
        number = random_.randrange(DOCUMENTS_OF_AN_OWNER)
        entry = replace(ledger.entry(f"owner-{owner}/{number}"), readable=False)
        ledger.record(entry)  # from here on no reader holds us to it
        if entry.text is not None and random_.random() < 0.3:
            delete(client, ledger, entry)
        else:
            write(client, ledger, entry, random_)

    return step


def write(client: Client, ledger: Ledger, before: Entry, random_: random.Random) -> None:
    """Write the next version; sometimes send it twice, sometimes wait until it can be read."""
    document_id, expected = before.document_id, before.version + 1
    text = " ".join(f"w{random_.getrandbits(40):010x}" for _ in range(WORDS))
    key = f"{document_id}-{expected}"
    mode = random_.choice(MODES)
    job = client.write(text, id=document_id, mode=mode, idempotency_key=key)
    entry = Entry(document_id, expected, text)
    ledger.record(entry)
    ledger.count("writes")
    if random_.random() < 0.2:
        again = client.write(text, id=document_id, mode=mode, idempotency_key=key)
        if again.job_id != job.job_id:
            ledger.accuse("duplicated", f"key {key} made {job.job_id}, then {again.job_id}")
    if job.version != expected:
        ledger.accuse(
            "duplicated" if job.version > expected else "lost",
            f"{document_id}: write {expected} was acknowledged as version {job.version}",
        )
    if random_.random() < 0.3:
        client.wait(job, poll_s=0.05)
        ledger.record(replace(entry, readable=True))


def delete(client: Client, ledger: Ledger, entry: Entry) -> None:
    """A delete has no key: sent again after a broken connection, "not found" means done."""
    sent = 0
    while True:
        sent += 1
        try:
            client.delete(entry.document_id)
        except NotFoundError:
            if sent == 1:
                ledger.accuse("lost", f"{entry.document_id}: nothing there to delete")
        except (ConnectionError, APIError) as error:
            if not is_temporary(error):
                raise
            time.sleep(PATIENT.first_wait_s)
            continue
        ledger.record(replace(entry, text=None, readable=False))
        ledger.count("deletes")
        return


def read_one(client: Client, ledger: Ledger, random_: random.Random) -> None:
    """Ask for a document whose owner was told that it can be read, unless it changes meanwhile."""
    readable = [entry for entry in ledger.entries() if entry.readable]
    if not readable:
        return
    entry = random_.choice(readable)
    answer = ask(client, entry)
    ledger.count("reads")
    if ledger.entry(entry.document_id) is entry and not answers(answer, entry):
        ledger.accuse("lost", f"{entry.document_id}: version {entry.version} does not answer")


def ask(client: Client, entry: Entry) -> Answer:
    assert entry.text is not None
    return client.query(entry.text, top_k=3, max_new_tokens=1, selection="cosine")


def answers(answer: Answer, entry: Entry) -> bool:
    """Whether the document's newest text is what stands first, and once."""
    hits = [memory for memory in answer.memories if memory.document_id == entry.document_id]
    return len(hits) == 1 and answer.memories[0] == hits[0] and hits[0].score >= SAME_TEXT
