"""A server at its limits: it refuses what is too much, and neither grows nor loses what it took.

    python -m benchmarks.overload --append

Reads: a crowd of clients that stream answers, first as many as the limit admits, then several times
as many; those that are refused come again, as late as they are told and then much sooner. Writes:
several times as many documents as the queue holds, all at once and with no worker; then a worker
starts, the refused come again until all are accepted, and every document must be remembered.
With the dummy engine and writer unless PARAMEM_ENGINE and PARAMEM_WRITER say otherwise.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import tempfile
import time
from collections.abc import Mapping
from itertools import chain
from pathlib import Path

from benchmarks.attempts import Address, Attempt, Tally, attempt
from benchmarks.contexts import long_documents
from benchmarks.peak import Peak
from benchmarks.ready import passage_text
from benchmarks.results import RESULTS, publish
from benchmarks.server import Server, serving, working
from clients import Client, NotFoundError

DEFAULTS = {"PARAMEM_ENGINE": "dummy", "PARAMEM_WRITER": "dummy", "PARAMEM_LOG_LEVEL": "WARNING"}
IN_FLIGHT = "paramem_queries_in_flight"
DEPTH = "paramem_write_queue_depth"
TOP_K, NEW_TOKENS = 5, 64
IMPATIENT_S = 0.1
PATIENT_S = float("inf")  # as long as the server tells
RSS_EVERY_S, SCRAPE_EVERY_S = 0.02, 0.1
REST_S = 1.0  # before memory is read again
QUESTION = "What is the ferry to Tolvaig called, and who has sailed it {times} times?"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=int, default=256, help="queries in flight")
    parser.add_argument("--queue", type=int, default=200, help="jobs the queue holds")
    parser.add_argument("--times", type=int, default=4, help="the limits come")
    parser.add_argument("--seconds", type=float, default=15, help="each crowd asks")
    parser.add_argument("--append", action="store_true", help=f"append to {RESULTS.name}")
    arguments = parser.parse_args()
    crowds = [
        (arguments.limit, PATIENT_S),
        (arguments.limit * arguments.times, PATIENT_S),
        (arguments.limit * arguments.times, IMPATIENT_S),
    ]
    environment = DEFAULTS | os.environ
    lines = [
        f"\n## Overload, {time.strftime('%Y-%m-%d')}\n",
        f"{os.cpu_count()} cores ({platform.machine()}), shared by server and clients, load "
        f"average {os.getloadavg()[0]:.1f} before; engine {environment['PARAMEM_ENGINE']}, writer "
        f"{environment['PARAMEM_WRITER']}; a connection a request; each crowd asks for "
        f"{arguments.seconds:g} s, once. Command: `python -m benchmarks.overload`.\n",
        *reads(environment, arguments.limit, crowds, arguments.seconds),
        "",
        *writes(environment, arguments.queue, arguments.queue * arguments.times),
    ]
    publish(lines, append=arguments.append)


def reads(
    environment: Mapping[str, str], limit: int, crowds: list[tuple[int, float]], seconds: float
) -> list[str]:
    """A table with a row for each crowd: clients, and their longest pause in seconds."""
    lines = [
        f"| clients | come again after | streams finished | a second | 429 | of them without "
        f"Retry-After | other | most in flight (limit {limit}) | finished p50 / p99 ms | 429 p50 / "
        "p99 ms | RSS before / peak / after MiB |",
        "|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    environment = {**environment, "PARAMEM_MAX_CONCURRENT_REQUESTS": str(limit)}
    with tempfile.TemporaryDirectory() as home, serving(Path(home), environment) as server:
        with working(Path(home), environment), Client(str(server.http.base_url)) as client:
            for line in client.write_many(long_documents()):
                assert line.job is not None, line
                client.wait(line.job.job_id)
        asyncio.run(crowd(server.address, min(8, limit), 1.0, PATIENT_S))  # warm-up, not counted
        for clients, pause_s in crowds:
            with (
                Peak(server.rss_mib, every_s=RSS_EVERY_S) as rss,
                Peak(lambda: server.gauge(IN_FLIGHT), every_s=SCRAPE_EVERY_S) as in_flight,
            ):
                started = time.perf_counter()
                tried = asyncio.run(crowd(server.address, clients, seconds, pause_s))
                took_s = time.perf_counter() - started
            time.sleep(REST_S)
            tally = Tally.of(tried)
            patience = "as told" if pause_s == PATIENT_S else f"{pause_s:g} s"
            lines.append(
                f"| {clients:,} | {patience} | {tally.accepted:,} | {tally.accepted / took_s:.0f} "
                f"| {tally.refused:,} | {tally.silent} | {tally.other} | {in_flight.highest:.0f} "
                f"| {tally.accepted_ms} | {tally.refused_ms} "
                f"| {rss.first:.0f} / {rss.highest:.0f} / {server.rss_mib():.0f} |"
            )
    return lines


async def crowd(address: Address, clients: int, seconds: float, pause_s: float) -> list[Attempt]:
    """Clients that ask again as soon as they have their answer, and after a pause when refused."""
    until = time.monotonic() + seconds

    async def client(number: int) -> list[Attempt]:
        tried: list[Attempt] = []
        while time.monotonic() < until:
            question = QUESTION.format(times=number)
            body = {"query": question, "top_k": TOP_K, "max_new_tokens": NEW_TOKENS, "stream": True}
            tried.append(await attempt(address, "/query", body))
            if not tried[-1].accepted:
                await asyncio.sleep(min(pause_s, tried[-1].retry_after_s or 1.0))
        return tried

    return list(chain(*await asyncio.gather(*map(client, range(clients)))))


def writes(environment: Mapping[str, str], limit: int, documents: int) -> list[str]:
    """A table with a row for the flood without a worker and one for the rest of it with one."""
    lines = [
        f"| worker | documents sent | 202 | 429 | of them without Retry-After | other | "
        f"Retry-After s | longest queue (limit {limit}) | 202 p50 / p99 ms | accepted, but not "
        "remembered | RSS before / peak / after MiB |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    environment = {**environment, "PARAMEM_MAX_QUEUE": str(limit)}
    with (
        tempfile.TemporaryDirectory() as home,
        serving(Path(home), environment) as server,
        Client(str(server.http.base_url)) as client,
    ):
        sent = range(documents)
        row, refused = flood(server, sent, insist=False)
        accepted = set(sent) - set(refused)
        lines.append(f"| none | {documents} | {row.format(lost='–')}")
        with working(Path(home), environment):
            row, never = flood(server, refused, insist=True)
            while server.gauge(DEPTH):
                time.sleep(SCRAPE_EVERY_S)
        accepted |= set(refused) - set(never)
        lost = sum(not remembered(client, str(number)) for number in accepted)
        lines.append(
            f"| running | {len(refused)} | {row.format(lost=f'{lost} of {len(accepted)}')}"
        )
    return lines


def flood(server: Server, numbers: range | list[int], *, insist: bool) -> tuple[str, list[int]]:
    """Send documents all at once. Returns: the rest of a row, and those that were not accepted."""
    with (
        Peak(server.rss_mib, every_s=RSS_EVERY_S) as rss,
        Peak(lambda: server.gauge(DEPTH), every_s=SCRAPE_EVERY_S) as depth,
    ):
        tried = asyncio.run(send(server.address, numbers, insist=insist))
        longest = max(depth.highest, server.gauge(DEPTH))
    time.sleep(REST_S)
    tally = Tally.of([one for attempts in tried.values() for one in attempts])
    row = (
        f"{tally.accepted} | {tally.refused} | {tally.silent} | {tally.other} | {tally.told_s} "
        f"| {longest:.0f} | {tally.accepted_ms} | {{lost}} "
        f"| {rss.first:.0f} / {rss.highest:.0f} / {server.rss_mib():.0f} |"
    )
    return row, [number for number, attempts in tried.items() if not attempts[-1].accepted]


async def send(
    address: Address, numbers: range | list[int], *, insist: bool
) -> dict[int, list[Attempt]]:
    """Each document once, or (``insist``) again while refused, as late as the server tells."""

    async def document(number: int) -> list[Attempt]:
        body = {"id": str(number), "text": passage_text(number, 0)}
        tried = [await attempt(address, "/write", body)]
        while insist and tried[-1].refused:
            await asyncio.sleep(tried[-1].retry_after_s or 1.0)
            tried.append(await attempt(address, "/write", body))
        return tried

    return dict(zip(numbers, await asyncio.gather(*map(document, numbers)), strict=True))


def remembered(client: Client, document_id: str) -> bool:
    try:
        return bool(client.memory(document_id).passages)
    except NotFoundError:
        return False


if __name__ == "__main__":
    main()
