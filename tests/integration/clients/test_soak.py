"""``paramem soak`` in short: what was acknowledged outlives kills at moments nobody chose."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

from clients.results import Answer, SelectedMemory
from clients.soak.audit import audit
from clients.soak.ledger import Entry, Ledger
from clients.soak.memory_use import Sample, drift
from clients.soak.processes import Processes
from clients.soak.traffic import THREAD, answers, traffic

KILLS = 4


def test_nothing_acknowledged_is_lost_whatever_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "clients.cli.app", "soak", "--kills", str(KILLS), "--json"]
    ran = subprocess.run(
        [*command, "--home", str(tmp_path / "home")],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    report = json.loads(ran.stdout)
    assert report["ok"]
    assert sum(report["kills"].values()) >= KILLS
    assert report["writes"] > 0
    assert report["reads"] > 0
    assert report["processes"]["server"]["ready_p50_s"] > 0


def test_a_run_without_kills_tells_the_memory_of_both(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "clients.cli.app", "soak", "--kills", "0", "--seconds", "2"]
    ran = subprocess.run(
        [*command, "--json", "--home", str(tmp_path / "home")],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    report = json.loads(ran.stdout)
    assert report["kills"] == {}
    assert all(min(sample["rss_bytes"].values()) > 1e7 for sample in report["memory_use"])


def test_drift_is_counted_from_when_things_had_settled() -> None:
    rising = [Sample(10.0 * n, {"server": 1000 + n, "worker": 50}) for n in range(200)]
    server = drift(rising, "server", settling_s=1000)
    assert server is not None
    assert (server.settled_bytes, server.final_bytes) == (1104.5, 1194.5)
    worker = drift(rising, "worker", settling_s=1000)
    assert worker is not None
    assert worker.fraction == 0.0
    assert drift(rising, "server", settling_s=1e6) is None


def test_the_audit_sees_what_is_lost_doubled_undead_and_outdated(tmp_path: Path) -> None:
    ledger = Ledger()
    with Processes(tmp_path / "home") as processes:
        processes.await_ready()
        client = processes.client
        for name in ("sound", "undead", "stale", "unexpected"):
            client.wait(client.write(f"the text of {name}", id=name, mode="fast"), timeout_s=60)
        ledger.record(Entry("sound", 1, "the text of sound"))
        ledger.record(Entry("lost", 1, "never written"))
        ledger.record(Entry("undead", 1, None))
        ledger.record(Entry("stale", 2, "another text altogether"))
        audit(processes, ledger)
        with traffic(processes.url, Ledger(), seed=0):
            pass
        assert THREAD not in {thread.name for thread in threading.enumerate()}
    told = Counter(
        violation.partition(": ")[2].partition(":")[0] for violation in ledger.violations
    )
    assert "sound" not in told
    assert set(told) == {"lost", "undead", "stale", "unexpected"}
    assert ledger.counts["undead"] == 3
    assert ledger.counts["lost"] == 4


def test_an_answer_counts_only_with_the_newest_text_and_once() -> None:
    entry = Entry("a", 2, "new")

    def hit(document_id: str, score: float, passage: int = 0) -> SelectedMemory:
        return SelectedMemory(document_id=document_id, passage=passage, score=score)

    assert answers(Answer(answer="", memories=(hit("a", 1.0), hit("b", 0.2))), entry)
    assert not answers(Answer(answer="", memories=(hit("a", 0.3),)), entry)
    assert not answers(Answer(answer="", memories=(hit("a", 1.0), hit("a", 0.9, 1))), entry)
    assert not answers(Answer(answer="", memories=(hit("b", 1.0),)), entry)
