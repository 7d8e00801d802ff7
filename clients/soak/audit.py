"""What is there, compared with what was acknowledged: over HTTP, against fresh processes."""

from __future__ import annotations

import json
import time

from clients.client import Client
from clients.errors import NotFoundError
from clients.soak.ledger import Entry, Ledger
from clients.soak.processes import Processes
from clients.soak.traffic import PATIENT, answers, ask

SETTLE_S = 600.0
LOOK_EVERY_S = 0.2
LIVE, ENDED_BADLY = ("queued", "running"), ("failed", "dead")
LIMIT = 100


def audit(processes: Processes, ledger: Ledger) -> None:
    """Accuse ``ledger`` of every promise that was not kept."""
    with Client(processes.url, retries=PATIENT) as client:
        _settle(client, ledger)
    processes.restart()
    with Client(processes.url, retries=PATIENT) as client:
        for entry in ledger.entries():
            _check(client, ledger, entry)
        _check_list(client, ledger)
    code, output = processes.run_command("doctor", "--json")
    for problem in json.loads(output)["problems"]:
        ledger.accuse("doctor", f"{problem['code']}: {problem['message']}")
    if code != 0 and not ledger.counts["doctor"]:
        ledger.accuse("doctor", f"ended with exit code {code}")


def _settle(client: Client, ledger: Ledger) -> None:
    """Wait until the worker has nothing left to do."""
    deadline = time.monotonic() + SETTLE_S
    while any(client.jobs(status=status, limit=1).items for status in LIVE):
        if time.monotonic() > deadline:
            ledger.accuse("lost", f"jobs are still waiting after {SETTLE_S:g} s")
            break
        time.sleep(LOOK_EVERY_S)
    for status in ENDED_BADLY:
        for job in client.jobs(status=status, limit=LIMIT).items:
            ledger.accuse("lost", f"{job.document_id}: job {job.job_id} is {status}")


def _check(client: Client, ledger: Ledger, entry: Entry) -> None:
    name = entry.document_id
    try:
        memory = client.memory(name)
    except NotFoundError:
        if entry.text is not None:
            ledger.accuse("lost", f"{name}: version {entry.version} is not there")
        return
    if entry.text is None:
        ledger.accuse("undead", f"{name}: was deleted, version {memory.version} is there")
        return
    if memory.version != entry.version:
        what = "lost" if memory.version < entry.version else "duplicated"
        ledger.accuse(what, f"{name}: version {memory.version}, acknowledged {entry.version}")
    if len(memory.passages) != 1:
        what = "lost" if not memory.passages else "duplicated"
        ledger.accuse(what, f"{name}: {len(memory.passages)} passages instead of one")
    elif not answers(ask(client, entry), entry):
        ledger.accuse("lost", f"{name}: its newest text does not answer")


def _check_list(client: Client, ledger: Ledger) -> None:
    """The list holds every document once, and none that is not in the ledger."""
    listed: list[str] = []
    cursor = None
    while True:
        page = client.memories(cursor=cursor, limit=LIMIT)
        listed += [memory.document_id for memory in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
    wanted = {entry.document_id for entry in ledger.entries() if entry.text is not None}
    for name in sorted(set(listed) - wanted):
        ledger.accuse("undead", f"{name}: is listed")
    for name in sorted(wanted - set(listed)):
        ledger.accuse("lost", f"{name}: is not listed")
    if len(listed) != len(set(listed)):
        ledger.accuse("duplicated", f"{len(listed) - len(set(listed))} documents are listed twice")
