"""``paramem snapshot``, ``restore`` and ``snapshots``: points in time to go back to."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clients.cli.console import complain, print_json, progress_bar, say, say_columns
from clients.cli.failures import OneLineErrors
from clients.cli.operate import open_store
from clients.cli.options import AsJson, Home
from clients.cli.refusals import refusals
from paramem.settings import load_settings

if TYPE_CHECKING:
    from memory_store.snapshots.manifest import Snapshot

app = typer.Typer(cls=OneLineErrors, no_args_is_help=True, help="Look at and delete snapshots.")
WHERE = "PARAMEM_SNAPSHOTS, or snapshots under the home"
Where = Annotated[
    str | None, typer.Option("--from", help="Directory or URL they are in.", show_default=WHERE)
]
ID_PREFIX = "snap_"


def snapshot(
    home: Home = None,
    to: Annotated[
        str | None,
        typer.Option("--to", help="Directory or URL (gs://, s3:// …).", show_default=WHERE),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Keep everything as it is now; server and workers may go on meanwhile."""
    settings = load_settings(home=home)
    with (
        open_store(settings) as store,
        progress_bar("keeping", 1, quiet=as_json) as bar,
    ):
        from memory_store.snapshots.snapshots import Snapshots

        snapshots = Snapshots(settings.home, to or settings.snapshots)
        report = store.snapshot(snapshots, bar.move_to)
    if as_json:
        print_json({**_shown(report.snapshot), "new_bytes": report.new_bytes})
    else:
        say(
            f"{report.snapshot.snapshot_id} in {snapshots.where}: "
            f"{report.snapshot.num_bytes / 1e6:.1f} MB, of which {report.new_bytes / 1e6:.1f} new"
        )


def restore(
    source: Annotated[
        str, typer.Argument(help="A snapshot's id, its PLACE/ID, or a PLACE: its newest.")
    ],
    to: Annotated[
        Path | None,
        typer.Option("--to", help="Home to restore, may be new.", show_default="PARAMEM_HOME"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Verify a snapshot and let it replace a home's state, which is kept beside it.

    Stop server and workers first; else it waits until they are next stopped and started.
    """
    settings = load_settings(home=to)
    place, snapshot_id = _split(source)
    with refusals(), progress_bar("restoring", 1, quiet=as_json) as bar:
        from memory_store.snapshots.snapshots import Snapshots

        snapshots = Snapshots(settings.home, place or settings.snapshots)
        snapshot_id = snapshot_id or snapshots.newest().snapshot_id
        report = snapshots.restore(snapshot_id, bar.move_to)
    if as_json:
        print_json(
            {
                "snapshot_id": snapshot_id,
                "home": str(settings.home),
                "bytes": report.num_bytes,
                "fingerprints": report.fingerprints,
                "applied": report.applied,
            }
        )
        return
    if report.applied:
        say(f"{settings.home} is as it was in {snapshot_id}; what it was: before-restore-… in it")
    else:
        say(
            f"{snapshot_id} is verified, but {settings.home} is in use: it is restored when server "
            "and workers are next stopped and started. What is written until then is not in it"
        )
    for fingerprint in report.fingerprints:
        say(f"its memories need the bundle {fingerprint}")


@app.command("list")
def list_snapshots(home: Home = None, where: Where = None, as_json: AsJson = False) -> None:
    """List snapshots, newest first."""
    settings = load_settings(home=home)
    with refusals():
        from memory_store.snapshots.snapshots import Snapshots

        page = Snapshots(settings.home, where or settings.snapshots).page(limit=1000)
    if as_json:
        print_json({"items": [_shown(one) for one in page.items], "next_cursor": page.next_cursor})
        return
    rows = [
        (
            one.snapshot_id,
            time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(one.created_at)),
            str(one.documents),
            f"{one.num_bytes / 1e6:.1f}",
            " ".join(one.fingerprints),
        )
        for one in page.items
    ]
    say_columns(("snapshot", "taken", "documents", "MB", "bundles"), rows)
    if page.next_cursor:
        complain("there are more, older ones")


@app.command()
def delete(
    snapshot_id: Annotated[str, typer.Argument(help="A snapshot's id.")],
    home: Home = None,
    where: Where = None,
    as_json: AsJson = False,
) -> None:
    """Delete a snapshot and the files that no other one needs."""
    settings = load_settings(home=home)
    with refusals():
        from memory_store.snapshots.snapshots import Snapshots

        Snapshots(settings.home, where or settings.snapshots).delete(snapshot_id)
    if as_json:
        print_json({"deleted": snapshot_id})
    else:
        say(f"deleted {snapshot_id}")


def _split(source: str) -> tuple[str | None, str | None]:
    """Place and id; either may be missing."""
    before, _, last = source.rstrip("/").rpartition("/")
    if last.startswith(ID_PREFIX):
        return before or None, last
    return source, None


def _shown(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "snapshot_id": snapshot.snapshot_id,
        "created_at": snapshot.created_at,
        "bytes": snapshot.num_bytes,
        "documents": snapshot.documents,
        "fingerprints": snapshot.fingerprints,
    }
