"""One thing an audit found, with the repair it knows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from memory_store.records import Problem


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem; ``fix`` returns whether all is well again, None means it cannot be repaired."""

    problem: Problem
    fix: Callable[[], bool] | None = None

    def settle(self, *, repair: bool) -> Problem:
        if not repair or self.fix is None:
            return self.problem
        return replace(self.problem, repaired=self.fix())
