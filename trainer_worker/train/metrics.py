"""Training metrics as JSON Lines, one object a step."""

from __future__ import annotations

import json
from pathlib import Path


class MetricsLog:
    """Appends to ``metrics.jsonl``; a resumed run goes on in the same file."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path

    def append(self, values: dict[str, float | int | str]) -> None:
        with self._path.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(values) + "\n")
