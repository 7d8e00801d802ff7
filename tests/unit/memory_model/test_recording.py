"""What is replayed says what it said, of few short texts; all else is done as before."""

from __future__ import annotations

import gc
from unittest.mock import MagicMock

import pytest
import torch

from memory_model.recording import MOST_COLUMNS, WARM_UP, ReadingRecordings, Recording


def test_what_is_given_is_copied_to_where_the_work_looks() -> None:
    seen: list[int] = []

    def work(given: torch.Tensor) -> torch.Tensor:
        seen.append(given.data_ptr())
        return given + 1

    first = torch.tensor([1, 2])
    recording = Recording(work, first, pool=None)
    assert recording(first).tolist() == [2, 3]
    assert recording(torch.tensor([3, 4])).tolist() == [4, 5]
    assert len(set(seen)) == 1
    assert first.tolist() == [1, 2]


def test_nothing_is_collected_while_a_graph_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    """An old graph that were freed meanwhile would end the capture (seen on a GPU)."""
    collects: list[bool] = []

    def work(given: torch.Tensor) -> torch.Tensor:
        collects.append(gc.isenabled())
        return given

    recording = Recording(work, torch.ones(1), pool=None)
    for name in ("current_stream", "Stream", "stream", "graph"):
        monkeypatch.setattr(torch.cuda, name, MagicMock())
    recording._record(MagicMock(), pool=None)
    assert collects == [True] * WARM_UP + [False]
    assert gc.isenabled()


class SumOfTokens:
    """(B, L) and its mask -> (B, 1), without what is padded; keeps the sizes it was given."""

    def __init__(self) -> None:
        self.sizes: list[tuple[int, ...]] = []

    def __call__(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        self.sizes.append(tuple(ids.shape))
        return (ids * mask).sum(dim=1, keepdim=True).float()


ONE = torch.tensor([[7]])


def texts(rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.arange(1, rows * columns + 1).reshape(rows, columns)
    return ids, torch.ones_like(ids)


@pytest.mark.parametrize("rows", [1, 3, 4])
@pytest.mark.parametrize("columns", [1, 16, 17, MOST_COLUMNS])
def test_short_texts_are_read_in_a_recorded_size(rows: int, columns: int) -> None:
    work = SumOfTokens()
    read = ReadingRecordings(work, ONE, torch.ones_like(ONE), most_rows=4)
    recorded = set(work.sizes)
    ids, mask = texts(rows, columns)
    assert read(ids, mask)[:rows].tolist() == ids.sum(dim=1, keepdim=True).tolist()
    assert work.sizes[-1] in recorded


@pytest.mark.parametrize(("rows", "columns"), [(5, 3), (1, MOST_COLUMNS + 1)])
def test_more_and_longer_texts_are_read_as_they_are(rows: int, columns: int) -> None:
    work = SumOfTokens()
    read = ReadingRecordings(work, ONE, torch.ones_like(ONE), most_rows=4)
    ids, mask = texts(rows, columns)
    assert read(ids, mask).tolist() == ids.sum(dim=1, keepdim=True).tolist()
    assert work.sizes[-1] == (rows, columns)


def test_work_that_says_something_else_in_a_recorded_size_is_refused() -> None:
    with pytest.raises(RuntimeError, match="something else"):
        ReadingRecordings(lambda ids: ids.float() + ids.shape[1], ONE, most_rows=1)
