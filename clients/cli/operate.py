"""Operator commands: they open the house from inside.

It imports the other packages inside functions, so that talking HTTP needs none of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from clients.cli.console import print_json, progress_bar, say, say_columns
from clients.cli.failures import FAILED, CommandError, OneLineErrors
from clients.cli.openmp import spin_while_waiting
from clients.cli.options import AsJson, Home, Host, Port
from clients.cli.refusals import refusals
from clients.cli.supervisor import Supervisor, free_port
from paramem.settings import Settings, load_settings

if TYPE_CHECKING:
    from memory_model.library import ModelEntry
    from memory_store.store import MemoryStore

models = typer.Typer(cls=OneLineErrors, no_args_is_help=True, help="Get and look at base models.")
ModelName = Annotated[
    str, typer.Argument(help="smollm2-135m, a hub id or a directory.", show_default="PARAMEM_MODEL")
]
KILL_AFTER_S = 10.0
"""Time beyond the children's own grace before they are killed."""


def up(host: Host = None, port: Port = None, home: Home = None) -> None:
    """Run the server and a worker until Ctrl-C; a worker that dies comes back."""
    settings = load_settings(host=host, port=port, home=home)
    say(f"starting paramem in {settings.home} with model {settings.model}")
    supervise(settings, server=["serve"], worker=["worker"])


def supervise(settings: Settings, *, server: Sequence[str], worker: Sequence[str]) -> NoReturn:
    """Run two paramem commands as server and worker until told to stop, then exit."""
    supervisor = Supervisor(
        host=settings.host,
        port=settings.port or free_port(settings.host),
        home=settings.home,
        grace_s=settings.shutdown_grace_s + KILL_AFTER_S,
        announce=say,
        server=server,
        worker=worker,
    )
    raise typer.Exit(supervisor.run())


def serve(host: Host = None, port: Port = None, home: Home = None) -> None:
    """Run the HTTP server alone."""
    settings = load_settings(host=host, port=port, home=home)
    spin_while_waiting()
    with refusals():
        from server.run import run_server

        run_server(settings)


def worker(home: Home = None) -> None:
    """Run a worker alone; any number may share one home."""
    settings = load_settings(home=home)
    with refusals():
        from trainer_worker.process import run_worker

        run_worker(settings)


def doctor(
    home: Home = None,
    repair: Annotated[bool, typer.Option("--repair", help="Repair what can be.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check the catalogue against shards and index; exit code 1 while a problem is left."""
    with open_store(load_settings(home=home), mend=False) as store:
        problems = store.check(repair=repair)
    left = [problem for problem in problems if not problem.repaired]
    if as_json:
        print_json({"ok": not left, "problems": [asdict(problem) for problem in problems]})
    else:
        for problem in problems:
            remedy = "repaired" if problem.repaired else problem.repair
            say(f"{problem.code}: {problem.message}\n    → {remedy}")
        say(f"{len(left)} problems left" if problems else "no problems found")
    if left:
        raise typer.Exit(FAILED)


def rebuild_index(
    home: Home = None,
    collection: Annotated[str | None, typer.Option("--collection", help="Only this one.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make the index anew from the shards."""
    with open_store(load_settings(home=home)) as store:
        num_vectors = store.rebuild_index(collection)
        store.save_index()
    if as_json:
        print_json({"vectors": num_vectors})
    else:
        say(f"{num_vectors} vectors indexed")


def compact(
    home: Home = None,
    min_dead_fraction: Annotated[
        float,
        typer.Option("--min-dead-fraction", min=0.0, max=1.0, help="Leave fuller shards alone."),
    ] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Rewrite shards without what was deleted or replaced."""
    with (
        open_store(load_settings(home=home)) as store,
        progress_bar("compacting", None, quiet=as_json) as bar,
    ):
        report = store.compact(min_dead_fraction=min_dead_fraction, progress=bar.move_to)
    if as_json:
        print_json(asdict(report))
    else:
        for name, value in asdict(report).items():
            say(f"{name.replace('_', ' ')}: {value}")


@models.command("pull")
def pull_model(name: ModelName = "", as_json: AsJson = False) -> None:
    """Fetch and convert a model, so that the first start is quick."""
    settings = load_settings()
    with refusals(), progress_bar("pulling", None, quiet=as_json) as bar:
        from memory_model import library

        def show_stage(stage: str) -> None:
            bar.move_to(0, stage)

        path = library.pull(name or settings.model, settings.cache, show_stage)
    if as_json:
        print_json({"name": name or settings.model, "path": str(path)})
    else:
        say(str(path))


@models.command("list")
def list_models(as_json: AsJson = False) -> None:
    """List the models that are on this machine."""
    settings = load_settings()
    with refusals():
        from memory_model import library

        entries = library.list_models(settings.cache)
    if as_json:
        print_json([_entry(entry) for entry in entries])
        return
    rows = [
        (
            entry.name,
            f"{entry.num_parameters / 1e6:.0f} M",
            str(entry.hidden_size),
            str(entry.layers),
            str(entry.context_tokens),
            entry.dtype,
            f"{entry.size_bytes / 1e6:.0f}",
        )
        for entry in entries
    ]
    say_columns(("name", "parameters", "hidden", "layers", "context", "dtype", "MB"), rows)


@models.command("show")
def show_model(name: ModelName = "", as_json: AsJson = False) -> None:
    """Show what is known of one model."""
    settings = load_settings()
    with refusals():
        from memory_model import library

        entry = _entry(library.show(name or settings.model, settings.cache))
    if as_json:
        print_json(entry)
        return
    for field, value in entry.items():
        say(f"{field.replace('_', ' '):<15} {value}")


@contextmanager
def open_store(settings: Settings, *, mend: bool = True) -> Iterator[MemoryStore]:
    with refusals():
        from memory_store.store import MemoryStore

        if not settings.home.is_dir():
            raise CommandError(f"there is no paramem home at {settings.home}; name it with --home")
        with MemoryStore.open(settings.home, mend=mend) as store:
            yield store


def _entry(entry: ModelEntry) -> dict[str, Any]:
    return {name: str(value) if name == "path" else value for name, value in asdict(entry).items()}
