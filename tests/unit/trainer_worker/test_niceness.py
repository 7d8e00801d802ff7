"""A worker that stands back, whatever session it runs in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from trainer_worker.niceness import AUTOGROUP

STAND_BACK = """
import os, sys
from pathlib import Path
from trainer_worker.niceness import stand_back
stand_back(7, Path(sys.argv[1]))
print(os.nice(0))
"""


def stood_back(autogroup: Path, *, leader: bool) -> int:
    """Niceness of a process that has stood back by 7."""
    command = [sys.executable, "-c", STAND_BACK, str(autogroup)]
    done = subprocess.run(command, start_new_session=leader, check=True, capture_output=True)
    return int(done.stdout)


@pytest.fixture
def autogroup(tmp_path: Path) -> Path:
    made = tmp_path / "autogroup"
    made.write_text("as it was")
    return made


def test_the_leader_of_a_session_makes_its_group_as_nice_as_itself(autogroup: Path) -> None:
    niceness = stood_back(autogroup, leader=True)
    assert niceness >= 7
    assert autogroup.read_text() == str(niceness)


def test_the_group_of_somebody_elses_session_is_left_alone(autogroup: Path) -> None:
    assert stood_back(autogroup, leader=False) >= 7
    assert autogroup.read_text() == "as it was"


def test_a_kernel_without_groups_is_no_hindrance(tmp_path: Path) -> None:
    assert stood_back(tmp_path / "none" / "autogroup", leader=True) >= 7


@pytest.mark.skipif(not AUTOGROUP.exists(), reason="this kernel has no autogroups")
def test_the_kernel_takes_it() -> None:
    told = "; ".join(
        (
            "from trainer_worker.niceness import AUTOGROUP, stand_back",
            "stand_back(7)",
            "print(AUTOGROUP.read_text())",
        )
    )
    done = subprocess.run(
        [sys.executable, "-c", told], start_new_session=True, check=True, capture_output=True
    )
    assert int(done.stdout.split()[-1]) >= 7
