"""A device that will not come back, told from one that is well."""

from __future__ import annotations

import pytest
import torch

from memory_model.device_loss import is_lost


class Stream:
    """Of a device at work, or one whose every call fails."""

    def __init__(self, error: Exception | None) -> None:
        self._error = error

    def query(self) -> bool:
        if self._error is not None:
            raise self._error
        return False  # not done yet


def test_the_processor_is_never_lost() -> None:
    assert not is_lost(torch.device("cpu"))


@pytest.mark.parametrize(
    ("error", "lost"),
    [(None, False), (torch.AcceleratorError("CUDA error: unspecified launch failure"), True)],
)
def test_a_device_is_lost_when_its_stream_cannot_be_asked(
    monkeypatch: pytest.MonkeyPatch, error: Exception | None, lost: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _device: Stream(error))
    assert is_lost(torch.device("cuda", 0)) is lost
