"""``paramem soak``: kill the service at random under traffic, then check every promise."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from clients.cli.console import complain, print_json, progress_bar, say_columns
from clients.cli.demo import signals_as_exit
from clients.cli.failures import FAILED
from clients.cli.options import AsJson
from clients.soak.run import soak as run_soak

SHOWN_VIOLATIONS = 20


def soak(
    kills: Annotated[
        int, typer.Option("--kills", min=0, help="Stop after so many; 0 watches memory instead.")
    ] = 100,
    seconds: Annotated[
        float, typer.Option("--seconds", min=1, help="Stop after this time at the latest.")
    ] = 3600.0,
    seed: Annotated[int, typer.Option("--seed", help="Of kills and traffic.")] = 0,
    home: Annotated[
        Path | None,
        typer.Option("--home", help="An empty home.", show_default="a temporary directory"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Kill server, worker and compaction at random under traffic; exit 1 if a promise was broken.

    With the dummy engine and writer. What was acknowledged must be readable, once, in its newest
    version; what was deleted must stay so; doctor must find nothing.
    """
    place = Path(tempfile.mkdtemp(prefix="paramem-soak-")) if home is None else home
    place = place.expanduser().absolute()
    with signals_as_exit(), progress_bar("starting", kills, quiet=as_json) as bar:
        report = run_soak(
            place,
            kills=kills,
            seconds=seconds,
            seed=seed,
            progress=lambda what, done: bar.move_to(done, what),
        )
    if as_json:
        print_json(report.as_json())
    else:
        say_columns(("", ""), report.rows())
    if report.violations:
        for violation in report.violations[:SHOWN_VIOLATIONS]:
            complain(violation)
        complain(f"{len(report.violations)} violations; the home is kept: {place}")
        raise typer.Exit(FAILED)
    if home is None:
        shutil.rmtree(place)
