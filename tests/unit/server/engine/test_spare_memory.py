"""A container's limit counts as much as the machine's memory."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
import torch

from server.engine.spare_memory import spare_memory

CPU = torch.device("cpu")


def container(path: Path, *, limit: str, used: int, unused_files: int = 0) -> Path:
    (path / "memory.max").write_text(f"{limit}\n")
    (path / "memory.current").write_text(f"{used}\n")
    (path / "memory.stat").write_text(f"anon 1\ninactive_file {unused_files}\nslab 2\n")
    return path


@pytest.mark.parametrize(
    ("limit", "used", "unused_files", "left"),
    [("1000", 700, 0, 300), ("1000", 950, 200, 250), ("1000", 1001, 0, 0)],
)
def test_what_is_left_of_a_containers_limit_is_all_there_is(
    tmp_path: Path, limit: str, used: int, unused_files: int, left: int
) -> None:
    cgroup = container(tmp_path, limit=limit, used=used, unused_files=unused_files)
    assert spare_memory(CPU, cgroup) == left


def test_a_limit_beyond_the_machines_memory_gives_no_more_than_that(tmp_path: Path) -> None:
    whole = psutil.virtual_memory().total
    cgroup = container(tmp_path, limit=str(10 * whole), used=0)
    assert 0 < spare_memory(CPU, cgroup) <= whole


def test_without_a_limit_the_machines_memory_counts(tmp_path: Path) -> None:
    unlimited = container(tmp_path, limit="max", used=0)
    assert spare_memory(CPU, unlimited) > 0
    assert spare_memory(CPU, tmp_path / "nowhere") > 0
