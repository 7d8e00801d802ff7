"""Whether the right documents were among the memories an answer was made from."""

from __future__ import annotations

from collections.abc import Sequence


def recall_at(k: int, returned: Sequence[str], gold: Sequence[str]) -> float | None:
    """Share of the gold documents among the first k memories.

    ``returned`` holds the document id of every memory, best first; several memories may be of
    one document. None when nothing is gold.
    """
    wanted = set(gold)
    if not wanted:
        return None
    return len(wanted & set(returned[:k])) / len(wanted)
