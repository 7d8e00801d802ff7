"""How the threads that torch computes with wait for each other: libgomp reads it once, when loaded.

Between two operators of a forward they wait for some ten microseconds. Asleep they need longer than
that to wake; spinning they hold a core that another process may need.
"""

from __future__ import annotations

import os

SPINS = "5000"  # a tenth of a millisecond: longer than between two operators


def sleep_while_waiting() -> None:
    """For what shares the cores with a server: spinning slows both, tenfold at worst."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def spin_while_waiting() -> None:
    """For a server, whose answers are waited for: a forward of the default model takes two thirds
    of the time, and no longer beside a worker that stands back (experiments/LOG.md)."""
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)  # outweighs the policy
