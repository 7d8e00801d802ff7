from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from clients.cli.app import app
from memory_store import MemoryStore
from tests.unit.clients.evaluation.tiny_set import write_tiny_set
from tests.unit.clients.fake_server import POISON, FakeServer

runner = CliRunner()


def paramem(*arguments: str, stdin: str | bytes | None = None) -> Result:
    result = runner.invoke(app, list(arguments), input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    return result


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    directory = tmp_path / "notes"
    directory.mkdir()
    (directory / "otter.md").write_text("# Otters\n\notters sleep in kelp")
    (directory / "heron.txt").write_text("herons fish at dawn")
    return directory


def test_write_makes_documents_of_files(fake_server: FakeServer, notes: Path) -> None:
    result = paramem("write", str(notes))
    assert result.exit_code == 0
    assert "2 of 2 documents readable" in result.stdout
    titles = {name: doc["title"] for name, doc in fake_server.documents.items()}
    assert titles == {"otter.md": "Otters", "heron.txt": "heron"}


def test_write_skips_what_is_no_text_by_name_and_loses_nothing_else(
    fake_server: FakeServer, notes: Path
) -> None:
    (notes / "binary.md").write_bytes(b"\x00\x01")
    (notes / "latin.txt").write_bytes("grün".encode("latin-1"))
    (notes / "poison.md").write_text(POISON)
    result = paramem("write", str(notes), str(notes / "gone.md"))
    assert result.exit_code == 1
    assert set(fake_server.documents) == {"otter.md", "heron.txt"}
    for name in ("binary.md", "latin.txt", "gone.md"):
        assert f"{name}: " in result.stderr
    assert "refused poison.md: not this one (poison)" in result.stderr


def test_write_reads_standard_input(fake_server: FakeServer) -> None:
    assert paramem("write", "-", stdin="otters\n").exit_code == 0
    assert paramem("write", "-", "--id", "mine", stdin="otters\n").exit_code == 0
    assert set(fake_server.documents) == {"stdin", "mine"}


def test_write_as_json_is_json_on_stdout(fake_server: FakeServer, notes: Path) -> None:
    (notes / "empty.md").touch()
    result = paramem("write", str(notes), "--json")
    report = json.loads(result.stdout)
    assert {job["document_id"] for job in report["jobs"]} == {"otter.md", "heron.txt"}
    assert report["skipped"] == [f"{notes / 'empty.md'}: empty"]
    assert result.exit_code == 1


def test_write_refuses_two_files_of_one_id_before_sending(
    fake_server: FakeServer, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.md").write_text(name)
    result = paramem("write", str(tmp_path / "one"), str(tmp_path / "two"))
    assert result.exit_code == 1
    assert "would both be document 'a.md'" in result.stderr
    assert fake_server.documents == {}


def test_write_of_a_directory_without_text_says_so(fake_server: FakeServer, tmp_path: Path) -> None:
    result = paramem("write", str(tmp_path))
    assert result.exit_code == 1
    assert "no .md or .txt files" in result.stderr


def test_query_prints_the_answer_its_memories_and_timings(
    fake_server: FakeServer, notes: Path
) -> None:
    paramem("write", str(notes))
    result = paramem("query", "Where do otters sleep?")
    assert result.exit_code == 0
    assert "otters sleep in kelp" in result.stdout
    assert "otter.md" in result.stdout
    assert "select 1 · ttft 2 · total 3 ms" in result.stdout


def test_query_as_json_is_the_answer_object(fake_server: FakeServer, notes: Path) -> None:
    paramem("write", str(notes))
    answer = json.loads(paramem("query", "otters?", "--json").stdout)
    assert answer["memories"][0]["document_id"] == "otter.md"
    assert answer["usage"]["memory_slots"] == 4


def test_text_with_markup_characters_is_printed_as_it_is(fake_server: FakeServer) -> None:
    paramem("write", "-", "--id", "[bold]x[/bold]", stdin="[red]otters[/red] [/nope]")
    shown = paramem("query", "[red]otters[/red]").stdout
    assert "[red]otters[/red] [/nope]" in shown
    assert "[bold]x[/bold]" in shown
    assert "[bold]x[/bold]" in paramem("memories", "list").stdout


@pytest.mark.parametrize("filters", ["{", "[1]"])
def test_filters_that_are_no_json_object_are_refused(fake_server: FakeServer, filters: str) -> None:
    result = paramem("query", "otters?", "--filters", filters)
    assert result.exit_code == 2
    assert "--filters" in result.stderr


def test_jobs_can_be_listed_shown_and_watched(fake_server: FakeServer, notes: Path) -> None:
    paramem("write", str(notes))
    listed = paramem("jobs", "list").stdout
    assert "job-0" in listed
    assert "heron.txt" in listed
    assert "nats_per_token  1" in paramem("jobs", "show", "job-0").stdout
    assert json.loads(paramem("jobs", "show", "job-0", "--json").stdout)["job_id"] == "job-0"
    watched = paramem("jobs", "watch", "job-0")
    assert watched.exit_code == 0
    assert "succeeded" in watched.stdout


def test_watching_a_job_that_fails_ends_with_one(fake_server: FakeServer) -> None:
    fake_server.jobs["bad"] = {"job_id": "bad", "document_id": "a", "status": "failed"}
    assert paramem("jobs", "watch", "bad").exit_code == 1


@pytest.mark.parametrize("command", ["cancel", "retry"])
def test_jobs_are_steered_by_their_id(fake_server: FakeServer, command: str) -> None:
    fake_server.jobs["one"] = {"job_id": "one", "document_id": "a", "status": "queued"}
    assert paramem("jobs", command, "one").exit_code == 0
    methods = {"cancel": ("DELETE", "/jobs/one"), "retry": ("POST", "/jobs/one/retry")}
    assert fake_server.requests[-1] == methods[command]


def test_memories_can_be_listed_shown_recited_and_deleted(
    fake_server: FakeServer, notes: Path
) -> None:
    paramem("write", str(notes))
    assert "Otters" in paramem("memories", "list").stdout
    shown = paramem("memories", "show", "otter.md").stdout
    assert "1.000" in shown
    assert "4.000" in shown
    assert "herons fis" in paramem("memories", "reconstruct", "heron.txt").stdout
    assert paramem("memories", "delete", "otter.md").exit_code == 0
    gone = paramem("memories", "show", "otter.md")
    assert gone.exit_code == 1
    assert gone.stderr == "error: there is none (not_found)\n"


def test_eval_prints_a_table_and_writes_json(fake_server: FakeServer, tmp_path: Path) -> None:
    write_tiny_set(tmp_path)
    arguments = ("eval", "--data", str(tmp_path), "--set", "tiny", "--mode", "fast")
    out = tmp_path / "out.json"
    result = paramem(*arguments, "--settings", "memory,closed", "--json", str(out))
    assert result.exit_code == 0
    assert "store: 3 documents, 3 passages, 64 bytes a document" in result.stdout
    assert set(json.loads(out.read_text())["settings"]) == {"memory", "closed"}
    to_stdout = paramem(*arguments, "--settings", "closed", "--json", "-", "--limit", "1")
    assert json.loads(to_stdout.stdout)["run"]["questions"] == 1
    assert paramem(*arguments, "--markdown").stdout.startswith("| setting |")


def test_bench_compares_two_endpoints(fake_server: FakeServer, tmp_path: Path) -> None:
    write_tiny_set(tmp_path)
    page, raw = tmp_path / "bench.html", tmp_path / "bench.json"
    arguments = ("bench", "--data", str(tmp_path), "--set", "tiny", "--requests", "4")
    result = paramem(
        *arguments, "--rival", fake_server.url, "--html", str(page), "--json", str(raw)
    )
    assert result.exit_code == 0, result.stderr
    assert "rival / memory: TTFT " in result.stdout
    assert "throughput memory / rival: " in result.stdout
    assert "store bytes a passage  64" in result.stdout
    found = json.loads(raw.read_text())
    assert found["run"]["load"] == "closed loop, concurrency 1"
    assert [len(endpoint["samples"]) for endpoint in found["endpoints"]] == [4, 4]
    assert set(found["ratios"]) == {"ttft", "e2e"}
    assert "data:image/png;base64," in page.read_text()
    alone = paramem(*arguments, "--rate", "50", "--markdown").stdout
    assert "open loop, 50 requests/s" in alone
    assert "| TTFT p50 ms | " in alone
    assert "rival" not in alone


def test_bench_refuses_a_file_it_could_not_write(fake_server: FakeServer, tmp_path: Path) -> None:
    write_tiny_set(tmp_path)
    arguments = ("--data", str(tmp_path), "--set", "tiny", "--html", "nowhere/at/all.html")
    result = paramem("bench", *arguments)
    assert result.exit_code != 0
    assert "there is no directory" in result.stderr
    assert fake_server.documents == {}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--set", "small"), "available: tiny"),
        (("--set", "tiny", "--settings", "memory,foo"), "unknown setting 'foo'"),
        (("--set", "tiny", "--settings", ","), "--settings is empty"),
        (("--set", "tiny", "--json", "nowhere/at/all.json"), "there is no directory"),
    ],
)
def test_eval_refuses_wrong_arguments_before_it_writes_anything(
    fake_server: FakeServer, tmp_path: Path, arguments: tuple[str, ...], complaint: str
) -> None:
    write_tiny_set(tmp_path)
    result = paramem("eval", "--data", str(tmp_path), *arguments)
    assert result.exit_code != 0
    assert complaint in result.stderr
    assert fake_server.documents == {}


def test_no_server_is_one_line_that_says_how_to_start_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARAMEM_URL", "http://127.0.0.1:9")
    result = paramem("query", "anyone?")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert "http://127.0.0.1:9" in result.stderr
    assert "paramem up" in result.stderr


def test_a_mistyped_setting_is_named_with_the_nearest_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARAMEM_PROT", "1")
    result = paramem("query", "anyone?")
    assert result.exit_code == 2
    assert result.stderr == "error: unknown setting PARAMEM_PROT; did you mean PARAMEM_PORT?\n"


@pytest.mark.parametrize("command", ["up", "serve", "worker", "doctor", "compact"])
def test_a_bad_setting_is_named_by_every_operator_command(
    monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("PARAMEM_SLOTS", "many")
    result = paramem(command)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: PARAMEM_SLOTS: ")
    assert "'many'" in result.stderr


@pytest.mark.parametrize("command", ["serve", "worker", "compact"])
def test_a_home_that_stays_shut_is_one_line_for_every_operator_command(
    tmp_path: Path, command: str
) -> None:
    with MemoryStore.open(tmp_path):
        pass
    catalogue = tmp_path / "catalogue.db"
    data = bytearray(catalogue.read_bytes())
    data[4096 : 4096 + 8] = b"\xff" * 8  # the header of a page of rows
    catalogue.write_bytes(data)
    result = paramem(command, "--home", str(tmp_path))
    assert result.exit_code == 1
    [line] = result.stderr.splitlines()
    assert "restore a snapshot" in line


def test_every_command_has_help(fake_server: FakeServer) -> None:
    assert "paramem" in paramem("--version").stdout
    listed = paramem("--help").stdout
    for name in ("up", "serve", "worker", "write", "query", "jobs", "memories", "model", "eval"):
        assert f" {name} " in listed
        assert paramem(name, "--help").exit_code == 0
