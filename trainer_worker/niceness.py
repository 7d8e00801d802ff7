"""How far a worker stands back from the server's queries where both share cores."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

AUTOGROUP = Path("/proc/self/autogroup")


def stand_back(niceness: int, autogroup: Path = AUTOGROUP) -> None:
    """Add ``niceness`` to this process's, and see that it counts beyond its own session.

    Linux may schedule each session as one group (sched(7), "The autogroup feature"): niceness is
    then weighed within a session only, and a worker in one of its own, as ``paramem up`` starts it,
    takes half of every core from the server whatever its niceness. The group has a niceness of its
    own. That of a session somebody else leads, such as a shell's, is left alone; in a container the
    cgroup decides (``cpu_shares`` in docker-compose.yml).
    """
    reached = os.nice(niceness)
    if os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):  # a kernel without autogroups, or a read-only /proc
            autogroup.write_text(str(min(reached, 19)), encoding="ascii")
