"""How much memory a process may still take: of the machine, or of the container it runs in.

The kernel kills what goes beyond a container's limit, and tells nobody who asks for the machine's
free memory. Docker shows a container its own control group (cgroup v2) under ``CGROUP``.
"""

from __future__ import annotations

from pathlib import Path

import psutil
import torch

CGROUP = Path("/sys/fs/cgroup")


def spare_memory(device: torch.device, cgroup: Path = CGROUP) -> int:
    """Bytes that are free where ``device`` computes."""
    if device.type == "cuda":
        free, _whole = torch.cuda.mem_get_info(device)
        return int(free)
    available = int(psutil.virtual_memory().available)
    left = _left_in_container(cgroup)
    return available if left is None else min(available, left)


def _left_in_container(cgroup: Path) -> int | None:
    """None where there is no limit."""
    try:
        limit = (cgroup / "memory.max").read_text().strip()
        used = int((cgroup / "memory.current").read_text())
        stat = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
    except FileNotFoundError:  # no container, or an older kind of control group
        return None
    if limit == "max":
        return None
    # files that were read long ago give way before anything is killed
    return max(0, int(limit) - used + int(stat["inactive_file"]))
