"""The benchmarks that need no server, on a tiny random bundle.

Every report, from data files to tables.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from benchmarks import answers, paired, pareto, quality, refinement, selection, writes
from benchmarks.offline import OfflineModel
from clients.evaluation.bootstrap import Estimate
from memory_model.base import load_base
from memory_model.packed_linear import PackedLinear
from memory_store.records import CodeFormat
from tests.unit.memory_store.making import QUANTISER
from trainer_worker.train.config import Stage, TrainConfig
from trainer_worker.train.networks import build_networks
from trainer_worker.train.run import export_bundle

Run = Callable[..., str]


@pytest.fixture
def bundle(tiny_model: Path, tmp_path: Path) -> Path:
    """Adapters and heads as they start: nothing trained."""
    config = TrainConfig(
        model=str(tiny_model),
        datasets=["toy-train"],
        slots=4,
        z_dim=64,
        layers=1,
        stages=[Stage(name="text", context="text", steps=1, learning_rate=0.1)],
    )
    networks = build_networks(config, load_base(str(tiny_model), cache=tmp_path, device="cpu"))
    export_bundle(tmp_path / "bundle", config, networks)
    return tmp_path / "bundle"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    answers = ["Ada", "12 goats", "a red barn", "Oslo"]
    documents = [
        {"id": f"d{i}", "text": f"On farm {i} there is {answer}, and no more."}
        for i, answer in enumerate(answers)
    ]
    questions = [
        {"id": f"q{i}", "question": f"What is on farm {i}?", "answers": [a], "doc_ids": [f"d{i}"]}
        for i, a in enumerate(answers)
    ]
    for name, rows in (("docs", documents), ("qa", questions)):
        with gzip.open(tmp_path / f"toy-dev.{name}.jsonl.gz", "wt") as file:
            file.write("\n".join(map(json.dumps, rows)))
    return tmp_path


@pytest.fixture
def run(
    bundle: Path,
    tiny_model: Path,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Runs a benchmark on the tiny bundle. Returns: what it printed."""

    def run(benchmark: ModuleType, *options: str) -> str:
        place = ["--bundle", str(bundle), "--model", str(tiny_model), "--data", str(data)]
        monkeypatch.setattr("sys.argv", [benchmark.__name__, *place, *options])
        benchmark.main()
        return capsys.readouterr().out

    return run


def test_every_report_is_printed(run: Run) -> None:
    printed = run(quality, "--set", "toy-dev", "--slots", "2")
    for row in ("the passage as text", "nothing", "m = 4, bf16", "m = 4, int4", "m = 2, bf16"):
        assert f"{row} |" in printed
    for row in ("| number | ", "| name | ", "| other | ", "the right memory", "Confusion, 4"):
        assert row in printed


@pytest.mark.parametrize("selected_by", ["router", "attention"])
def test_answers_are_measured_beside_text_and_nothing(run: Run, selected_by: str) -> None:
    options = ["--top-k", "2", "1", "--slots", "3", "--formats", "bf16", "int4"]
    options += ["--selection", selected_by]
    printed = run(answers, "--sets", "toy-dev", *options)
    rows = [line.split(" | ") for line in printed.splitlines() if "| toy-dev | 4 | 4 |" in line]
    reads = ["the same passages as text", "BM25's", "nothing", "memory, bf16", "memory, int4"]
    assert [(row[3], row[4]) for row in rows] == [(k, each) for k in "21" for each in reads]
    assert rows[3][5] == f"{3 * 64 * 2 + 64 * 2}"


def test_the_best_of_two_is_what_one_selects(run: Run, tmp_path: Path) -> None:
    together, alone = tmp_path / "together.jsonl", tmp_path / "alone.jsonl"
    run(answers, "--sets", "toy-dev", "--top-k", "2", "1", "--save", str(together))
    run(answers, "--sets", "toy-dev", "--top-k", "1", "--save", str(alone))
    of_one = [line for line in together.read_text().splitlines() if json.loads(line)["top_k"] == 1]
    assert of_one == alone.read_text().splitlines()


def test_answers_from_those_that_score_near_the_best_are_measured_beside_the_same_as_text(
    run: Run,
) -> None:
    reading = ["--top-k", "2", "--selection", "attention", "--coarse-slots", "1"]
    printed = run(answers, "--sets", "toy-dev", *reading, "--score-margin", "0")
    assert "| as text those that are read as memories |" in printed
    assert "score margin 0.0, m = 4, after the best 1" in printed


def test_answers_are_weighed_against_bytes(run: Run, tmp_path: Path) -> None:
    picture = tmp_path / "pareto.png"
    printed = run(pareto, "--set", "toy-dev", "--slots", "2", "4", "--plot", str(picture))
    rows = [
        line.split(" | ") for line in printed.splitlines() if line.startswith(("| m", "| t", "| K"))
    ]
    sizes = [int(row[1].replace(",", "")) for row in rows]
    assert sizes == sorted(sizes)
    names = {row[0].removeprefix("| ") for row in rows}
    assert {"memory, m = 2, bf16", "memory, m = 4, int4", "text and vector (RAG)"} < names
    assert "KV cache, bf16" in names
    assert rows[0][3].startswith("yes")  # nothing is smaller
    assert picture.stat().st_size > 0


def test_the_frontier_holds_what_nothing_beats_in_both() -> None:
    sizes = {"small": (10, 0.2), "worse": (20, 0.2), "better": (20, 0.4), "large": (90, 0.4)}
    points = [
        pareto.Point(name, size, Estimate(value, 0.0, 1.0, 10))
        for name, (size, value) in sizes.items()
    ]
    assert [point.name for point in pareto.frontier(points)] == ["small", "better"]


def test_selection_is_measured_beside_bm25_and_an_encoder(run: Run) -> None:
    encoder = "all-minilm-l6-v2"
    printed = run(selection, "--sets", "toy-dev", "--attention", "--encoder", encoder)
    rows = [line for line in printed.splitlines() if "toy-dev" in line]
    ways = [
        "BM25",
        "router",
        "router, int4 keys",
        "cosine",
        "hybrid",
        encoder,
        "attention",
    ]
    assert [row.split("|")[5].strip() for row in rows] == ways
    assert all("| 4 | 4 | 4 |" in row and row.rstrip(" |").endswith("1.000]") for row in rows)


def test_what_refinement_adds_is_printed(run: Run) -> None:
    sizes = ["--passages", "2", "--steps", "2", "--slots", "4", "8", "--formats", "bf16", "int4"]
    printed = run(refinement, "--set", "toy-dev", *sizes)
    assert "2 passages, 2 questions" in printed
    assert [line.split(":")[0] for line in printed.splitlines() if line.startswith("### ")] == [
        "### m = 4, bf16",
        "### m = 4, int4",
        "### m = 8, bf16",
        "### m = 8, int4",
    ]
    assert printed.count("| the first guess |") == printed.count("| the refined memory |") == 8


def test_writes_are_timed_for_every_batch_size(run: Run) -> None:
    sizes = ["--documents", "4", "--batches", "1", "4", "--rounds", "1"]
    printed = run(writes, "--set", "toy-dev", *sizes, "--fit-documents", "2", "--fit-steps", "1")
    rows = [line.split(" | ") for line in printed.splitlines() if line.startswith("| f")]
    assert [(row[0].split(",")[0], row[1]) for row in rows] == [
        ("| fast", "1"),
        ("| fast", "4"),
        ("| fast", "1"),
        ("| fast", "4"),
        ("| fit", "1"),
        ("| fit", "4"),
    ]
    assert all(float(row[2]) > 0 for row in rows)


def test_offline_answers_equal_the_models_own_one_by_one(bundle: Path, tiny_model: Path) -> None:
    model = OfflineModel(bundle, str(tiny_model))
    prompts = [model.closed_prompt(query) for query in ("Why?", "Where is the red barn?", "No.")]
    lm, tokenizer = model.bundle.read_lm, model.bundle.base.tokenizer
    with torch.inference_mode():
        alone = [
            lm.generate(
                inputs_embeds=prompt[None],
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                do_sample=False,
                max_new_tokens=24,
                pad_token_id=tokenizer.eos_token_id,
            )[0]
            for prompt in prompts
        ]
    assert model.answer(prompts) == [
        tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in alone
    ]


def test_a_wrong_memory_is_of_another_document(bundle: Path, tiny_model: Path, data: Path) -> None:
    model = OfflineModel(bundle, str(tiny_model))
    asked = quality.gold_passages(model, data, "toy-dev", 4, 0)
    codes = model.compress([a.passage.token_ids for a in asked])
    for right, wrong in zip(codes, quality.wrong_memories(asked, codes), strict=True):
        assert not torch.equal(right, wrong)


@pytest.mark.parametrize(
    ("code_format", "size"), [("bf16", 160), ("int8", 90), ("int4", 50), ("rq", 34)]
)
def test_bytes_are_those_of_the_shard(code_format: str, size: int) -> None:
    shape = {"slots": 4, "z_dim": 16}
    assert quality.bytes_stored(CodeFormat(code_format), **shape, quantiser=QUANTISER) == size


@pytest.mark.parametrize(
    ("answer", "kind"), [("in 1912", "number"), ("the Red Barn", "name"), ("a barn", "other")]
)
def test_answers_have_kinds(answer: str, kind: str) -> None:
    assert quality.answer_kind(answer) == kind


def test_two_runs_are_compared_question_by_question(run: Run, tmp_path: Path) -> None:
    before, after = tmp_path / "before.jsonl", tmp_path / "after.jsonl"
    run(answers, "--sets", "toy-dev", "--save", str(before))
    lines = [json.loads(line) for line in before.read_text().splitlines()]
    assert {line["reads"] for line in lines} >= {"memory, bf16", "nothing"}
    assert {line["question"] for line in lines} == {"q0", "q1", "q2", "q3"}
    bettered = [
        line | {"exact": 1.0} if line["question"] == "q2" else line | {"exact": 0.0}
        for line in lines
        if line["question"] != "q0"  # asked of one of them only: left out
    ]
    after.write_text("\n".join(map(json.dumps, bettered)))
    worse = [line | {"exact": 0.0} for line in lines]
    before.write_text("\n".join(map(json.dumps, worse)))
    [row] = [
        row
        for row in paired.compare(paired.load(before), paired.load(after))
        if row[2] == "nothing"
    ]
    assert row[:6] == ("toy-dev", "5", "nothing", "3", "0.000", "0.333")
    assert row[6].startswith("0.333 [0.000, ")
    assert row[7] == "0.000 [0.000, 0.000]"


@pytest.mark.skipif(
    "fbgemm" not in torch.backends.quantized.supported_engines, reason="packs on x86 CPUs only"
)
@pytest.mark.parametrize(("dtype", "packs"), [("auto", True), ("float32", False)])
def test_offline_weights_are_rounded_where_a_servers_are(
    bundle: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, packs: bool
) -> None:
    monkeypatch.setenv("PARAMEM_DTYPE", dtype)
    monkeypatch.setenv("PARAMEM_DEVICE", "cpu")
    model = OfflineModel(bundle, str(tiny_model))
    model.pack()
    layers = {type(module) for module in model.bundle.read_lm.modules()}
    assert (PackedLinear in layers) == packs
