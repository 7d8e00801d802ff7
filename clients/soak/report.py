"""What a soak found, as rows for people and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from clients.soak.ledger import Ledger
from clients.soak.memory_use import KINDS, SETTLING_S, Sample, drift
from clients.soak.processes import SERVER, WORKER, Lifetime, Processes

MIB = 1 << 20
PROMISES = ("lost", "duplicated", "undead", "answer", "doctor")
Row = tuple[str, str]


@dataclass(frozen=True, slots=True)
class ProcessFigures:
    """Of all lifetimes of one kind of process."""

    kills: int
    lifetimes: int  # that became ready
    ready_p50_s: float
    ready_p95_s: float
    first_rss_mib: float  # median, when ready
    last_rss_mib: float  # median, at the end
    drift_mib: float  # median of a lifetime
    largest_drift_mib: float
    drift_over_run_mib: float  # when ready: last process of the run less the first


@dataclass(frozen=True, slots=True)
class Report:
    seed: int
    seconds: float
    kills: dict[str, int]
    writes: int
    deletes: int
    reads: int
    documents: int
    broken: dict[str, int]  # promise -> how often it was broken
    processes: dict[str, ProcessFigures]
    violations: Sequence[str]
    memory_use: Sequence[Sample]  # of a run without kills

    @classmethod
    def of(
        cls,
        processes: Processes,
        ledger: Ledger,
        samples: Sequence[Sample],
        *,
        seconds: float,
        seed: int,
    ) -> Report:
        counts = ledger.counts
        return cls(
            seed=seed,
            seconds=round(seconds, 1),
            kills=dict(processes.kills),
            writes=counts["writes"],
            deletes=counts["deletes"],
            reads=counts["reads"],
            documents=len(ledger.entries()),
            broken={promise: counts[promise] for promise in PROMISES},
            processes={
                kind: _figures([one for one in processes.ended if one.kind == kind], kills)
                for kind, kills in processes.kills.items()
                if kind in (SERVER, WORKER)
            },
            violations=ledger.violations,
            memory_use=samples,
        )

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"ok": not self.violations}

    def rows(self) -> list[Row]:
        kills = ", ".join(f"{count} {kind}" for kind, count in sorted(self.kills.items()))
        rows = [
            ("kills", f"{sum(self.kills.values())} ({kills or 'none'}) in {self.seconds:.0f} s"),
            ("acknowledged writes checked", f"{self.writes} of {self.documents} documents"),
            ("acknowledged deletes checked", f"{self.deletes}"),
            ("reads meanwhile checked", f"{self.reads}"),
            ("lost", f"{self.broken['lost']}"),
            ("stored twice", f"{self.broken['duplicated']}"),
            ("deleted and back", f"{self.broken['undead']}"),
            ("unexpected answers", f"{self.broken['answer']}"),
            ("found by doctor", f"{self.broken['doctor']}"),
        ]
        for kind in KINDS:
            settled = drift(self.memory_use, kind)
            if settled is not None:
                what = (
                    f"{settled.settled_bytes / MIB:.1f} after {SETTLING_S / 60:.0f} min, "
                    f"{settled.final_bytes / MIB:.1f} at the end: {settled.fraction:+.1%}"
                )
                rows.append((f"{kind}: RSS MiB without kills", what))
        for kind, one in sorted(self.processes.items()):
            rows += [
                (f"{kind}: seconds to ready", f"p50 {one.ready_p50_s}, p95 {one.ready_p95_s}"),
                (
                    f"{kind}: RSS MiB, {one.lifetimes} lifetimes",
                    f"{one.first_rss_mib} ready, {one.last_rss_mib} at the end, drift median "
                    f"{one.drift_mib}, largest {one.largest_drift_mib}; ready, last less first "
                    f"process {one.drift_over_run_mib}",
                ),
            ]
        return rows


def _figures(lifetimes: Sequence[Lifetime], kills: int) -> ProcessFigures:
    ready = [one for one in lifetimes if one.ready_s is not None]
    seconds = [one.ready_s for one in ready]
    first = np.array([one.first_rss_bytes for one in ready]) / MIB
    last = np.array([one.last_rss_bytes for one in ready]) / MIB
    if not ready:
        return ProcessFigures(kills, 0, *[0.0] * 7)
    figures = (
        *np.percentile(np.array(seconds, float), [50, 95]),
        np.median(first),
        np.median(last),
        np.median(last - first),
        (last - first).max(),
        first[-1] - first[0],
    )
    return ProcessFigures(kills, len(ready), *(round(float(figure), 2) for figure in figures))
