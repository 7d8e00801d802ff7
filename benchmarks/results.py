"""Where benchmarks leave what they found."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

RESULTS = Path(__file__).parent / "RESULTS.md"


def publish(lines: Sequence[str], *, append: bool) -> None:
    """Print them; ``append``: to the file of results, too."""
    text = "\n".join(lines) + "\n"
    sys.stdout.write(text)
    if append:
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(text)
