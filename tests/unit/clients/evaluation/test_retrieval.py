from __future__ import annotations

import pytest

from clients.evaluation.retrieval import recall_at


@pytest.mark.parametrize(
    ("k", "returned", "gold", "recall"),
    [
        (1, ["a", "b"], ["a"], 1.0),
        (1, ["b", "a"], ["a"], 0.0),
        (5, ["b", "a"], ["a"], 1.0),
        (2, ["a", "a", "b"], ["a", "b"], 0.5),
        (3, ["a", "a", "b"], ["a", "b"], 1.0),
        (5, [], ["a"], 0.0),
        (5, ["a"], [], None),
    ],
)
def test_recall_of_hand_computed_cases(
    k: int, returned: list[str], gold: list[str], recall: float | None
) -> None:
    assert recall_at(k, returned, gold) == recall
