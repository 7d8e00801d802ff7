"""The benchmark scripts run: dry runs on the CPU at tiny shapes, with the dummy engine."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*command: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_large_shapes_benchmark_runs_dry(tmp_path: Path) -> None:
    out = tmp_path / "cells.jsonl"
    sizes = ["--batches", "1", "2", "--memories", "1", "3", "--slots", "4", "16"]
    sizes += ["--read", "2"]
    limits = ["--most-positions", "900", "--decode-steps", "2"]
    weights = ["--weights", "bf16", "nf4"]
    command = ["-m", "benchmarks.shapes", "--shape", "tiny", *weights, *sizes, *limits]
    run(*command, "--out", str(out))
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    cells = [line for line in lines if "batch" in line]
    measured = [(cell["weights"], cell["batch"], cell["memories"], cell["slots"]) for cell in cells]
    within = [(1, 1), (1, 3), (2, 1)]  # 2 x 3 passages are more than 900 positions
    assert measured == [
        (w, *sizes, m) for w in ("bf16", "nf4") for sizes in within for m in (4, 16)
    ]
    for cell in cells:
        assert cell["read"] == min(2, cell["memories"])
        assert cell["memory"]["positions"] == cell["read"] * cell["slots"] + 32
        assert cell["text"]["positions"] == cell["memories"] * 150 + 32
        assert cell["memory"]["prefill_ms"] > 0
        assert cell["text"]["decode_ms"] > 0
    forwards = [line for line in lines if "batch" not in line]
    assert len(forwards) == 2 * 2 * 2
    assert all(forward["memory_ms"] > 0 and forward["text_ms"] > 0 for forward in forwards)


def test_the_contexts_benchmark_compares_the_same_questions() -> None:
    table = run(
        "-m", "benchmarks.contexts", "--rounds", "1", PARAMEM_ENGINE="dummy", PARAMEM_WRITER="dummy"
    )
    assert "n = 6 per row" in table
    for context in ("memory", "text", "none"):
        assert f"| {context} |" in table
    assert "Ratio text / memory: TTFT" in table


@pytest.mark.model
def test_the_endpoints_benchmark_loads_both_in_every_cell() -> None:
    grid = ["--concurrency", "1", "4", "--top-k", "2", "--requests", "4", "--ignore-eos"]
    grid += ["--new-tokens", "3", "5", "--coarse-slots", "2", "--score-margin", "100"]
    table = run("-m", "benchmarks.endpoints", *grid, PARAMEM_ENGINE="dummy", PARAMEM_WRITER="dummy")
    latencies, _, stages = table.partition("The server's stages")
    rows = [line.split(" | ") for line in latencies.splitlines() if line.startswith("| 2 |")]
    cells = itertools.product(("all",), ("2",), ("3", "5"), ("1", "4"), ("memory", "RAG"))
    assert [tuple(row[1:6]) for row in rows] == list(cells)
    assert {row[11] for row in rows} == {"0"}  # errors
    spent = [line.split(" | ") for line in stages.splitlines() if line.startswith("| 2 |")]
    assert [row[1:4] for row in spent] == [list(row[3:6]) for row in rows]
    embed = [(row[3], float(row[4])) for row in spent]
    # the dummy's own may take less than is told
    assert all(ms > 0 if name == "RAG" else ms >= 0 for name, ms in embed)
    assert "- RAG: " in table


def test_the_engines_benchmark_says_how_many_answers_agree(
    tiny_model: Path, tmp_path: Path
) -> None:
    table = run(
        *["-m", "benchmarks.engines", "--engines", "transformers", "transformers"],
        *["--concurrency", "1", "2", "--requests", "2", "--new-tokens", "3"],
        PARAMEM_HOME=str(tmp_path),
        PARAMEM_MODEL=str(tiny_model),
        PARAMEM_SLOTS="4",
        PARAMEM_Z_DIM="32",
    )
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| transformers")]
    kinds = ("ask", "recite", "again")
    assert [(row[4], row[3]) for row in rows] == 2 * [(c, kind) for c in "12" for kind in kinds]
    assert [row[9] for row in rows] == 12 * ["2 of 2 |"]


def test_the_bulk_write_benchmark_asks_while_the_worker_writes() -> None:
    sizes = ["--requests", "3", "--documents", "200", "--nice", "10"]
    table = run(
        "-m", "benchmarks.bulk_write", *sizes, PARAMEM_ENGINE="dummy", PARAMEM_WRITER="dummy"
    )
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| 10 |")]
    told = [("1", "idle"), ("1", "writing"), ("0.5", "idle"), ("0.5", "writing")]
    assert [(row[1], row[2]) for row in rows] == told
    assert rows[1][5]  # documents a second, or that there were too few for this writer
    assert "[" in rows[1][6]  # a ratio with its interval


@pytest.mark.model
def test_the_overhead_benchmark_pairs_answers_with_forward_passes() -> None:
    options = ["--rounds", "1", "--formats", "int4"]
    table = run(
        "-m", "benchmarks.overhead", *options, PARAMEM_ENGINE="dummy", PARAMEM_WRITER="dummy"
    )
    [row] = [line.split(" | ") for line in table.splitlines() if line.startswith("| int4 |")]
    assert row[3] == "6"
    assert float(row[5]) > 0
    assert "[" in row[6]


def test_the_requests_benchmark_gets_an_answer_to_every_question() -> None:
    loads = ["--concurrency", "1", "4", "--rates", "40", "--seconds", "1"]
    table = run("-m", "benchmarks.requests", *loads)
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")]
    _, *rows = rows
    assert [row[:3] for row in rows] == [
        [context, connections, asked]
        for context in ("memory", "none")
        for connections, asked in (("1", "as answered"), ("4", "as answered"), ("4", "40"))
    ]
    for row in rows:
        answers = int(row[3].replace(",", ""))
        assert 10 < answers < 90 if row[2] == "40" else answers > 0
    assert {row[6] for row in rows} == {"0"}  # failed


def test_the_overload_benchmark_counts_what_was_refused_and_loses_nothing() -> None:
    sizes = ["--limit", "3", "--queue", "8", "--times", "4", "--seconds", "1"]
    table = run("-m", "benchmarks.overload", *sizes, PARAMEM_ENGINE="dummy", PARAMEM_WRITER="dummy")
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")]
    _, *crowds, _, flood, rest = rows
    assert [row[:2] for row in crowds] == [["3", "as told"], ["12", "as told"], ["12", "0.1 s"]]
    for row in crowds:
        assert int(row[2]) > 0  # streams finished
        assert row[5:7] == ["0", "0"]  # without Retry-After, other
        assert int(row[7]) <= 3  # most in flight
    assert all(int(row[4]) > 0 for row in crowds[1:])  # refused
    assert flood[:6] == ["none", "32", "8", "24", "0", "0"]
    assert flood[7] == "8"  # longest queue
    assert rest[:3] == ["running", "24", "24"]
    assert rest[4:6] == ["0", "0"]
    assert int(rest[7]) <= 8
    assert rest[9] == "0 of 32"  # accepted, but not remembered


@pytest.mark.model
def test_the_storage_benchmark_weighs_every_format_beside_rag(tmp_path: Path) -> None:
    document = {"id": "a", "title": "A", "text": "The ferry is called the Patient Otter. " * 8}
    question = {"id": "q", "question": "What?", "answers": ["Patient Otter"], "doc_ids": ["a"]}
    for name, line in (("docs", document), ("qa", question)):
        packed = gzip.compress(json.dumps(line).encode())
        (tmp_path / f"few.{name}.jsonl.gz").write_bytes(packed)
    options = ["--data", str(tmp_path), "--set", "few", "--slots", "4"]
    table = run("-m", "benchmarks.storage", *options)
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| memory")]
    assert [row[0] for row in rows] == [
        f"| memory, m = 4, {code_format}" for code_format in ("bf16", "int8", "int4", "rq")
    ]
    sizes = [int(row[1].replace(",", "")) for row in rows]
    assert sizes == sorted(sizes, reverse=True)
    assert "| RAG: vector and text |" in table
    assert "| KV cache of the passage, bf16 |" in table
