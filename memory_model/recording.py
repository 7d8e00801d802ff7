"""Work of a GPU that is recorded once and replayed: a small step waits for Python, not for the GPU.

Launching the kernels of a decode step of Llama-3.1-8B takes 20 to 40 ms, reading its weights 4
(benchmarks/RESULTS.md). As a CUDA graph the step is one launch.

Symbols: B = texts of a batch, L = tokens of the longest.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import torch
from torch.nn.functional import pad

COLUMNS, MOST_COLUMNS = 16, 64  # of tokens of texts that are read together
MOST_ERROR = 0.05  # of the largest number: other kernels, in bf16
WARM_UP = 2  # what allocates or chooses kernels at its first call has then done so

Result = TypeVar("Result")
GraphPool = Any  # torch's type has no public name


def graph_pool(device: torch.device) -> GraphPool:
    """Memory for recordings that share it: they never run at the same time."""
    return torch.cuda.graph_pool_handle() if device.type == "cuda" else None


class Recording(Generic[Result]):
    """``work`` on tensors of one shape each. Not thread-safe.

    Where there are no CUDA graphs the work is done anew each time.
    """

    def __init__(
        self,
        work: Callable[..., Result],
        *given: torch.Tensor,
        pool: GraphPool,
    ) -> None:
        """Does ``work`` for ``given``, several times over: that must be as good as once.

        Args:
            pool: of :func:`graph_pool`.

        Raises: whatever ``work`` does; RuntimeError if it waits for the device.
        """
        self._work = work
        self._given = [tensor.clone() for tensor in given]  # what is replayed looks here
        self._graph: torch.cuda.CUDAGraph | None = None
        if given[0].device.type == "cuda":
            self._graph = torch.cuda.CUDAGraph()
            self._record(self._graph, pool)

    def __call__(self, *given: torch.Tensor) -> Result:
        """The result, whose tensors are valid until a recording of the same pool is called."""
        for mine, tensor in zip(self._given, given, strict=True):
            mine.copy_(tensor)
        if self._graph is None:
            return self._work(*self._given)
        self._graph.replay()
        return self._result

    def _record(self, graph: torch.cuda.CUDAGraph, pool: GraphPool) -> None:
        current, aside = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(current)
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                self._work(*self._given)
        current.wait_stream(aside)
        # the thread that embeds queries goes on beside this one: its calls are not ours to refuse
        with (
            _uncollected(),
            torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"),
        ):
            self._result = self._work(*self._given)


class ReadingRecordings:
    """``work`` on right-padded texts, recorded for a few sizes of what is short. Not thread-safe.

    Work on more or longer texts, which keeps a GPU busy, is done anew.
    """

    def __init__(
        self, work: Callable[..., torch.Tensor], *given: torch.Tensor, most_rows: int
    ) -> None:
        """Records for 1, 2, 4 … ``most_rows`` texts.

        Args:
            work: (B, L, …) tensors -> (B, …). What it says of a text must not depend on the others,
                nor on what is padded with zeros to its right.
            given: an example, B = 1 and L > 0.

        Raises: whatever ``work`` does; RuntimeError if it waits for the device, or says something
            else when it is replayed.
        """
        self._work = work
        self._most_rows = most_rows
        pool, plain = graph_pool(given[0].device), work(*given)
        self._recordings: dict[tuple[int, int], Recording[torch.Tensor]] = {}
        for columns in range(COLUMNS, MOST_COLUMNS + 1, COLUMNS):
            for power in range(most_rows.bit_length()):
                size = 1 << power, columns
                padded = [_to_size(tensor, size) for tensor in given]
                recording = Recording(work, *padded, pool=pool)
                said = recording(*padded)[tuple(slice(length) for length in plain.shape)]
                error = relative_error(said, plain)
                if not error <= MOST_ERROR:
                    raise RuntimeError(f"recorded for {size} it says something else: {error:g} off")
                self._recordings[size] = recording

    def __call__(self, *given: torch.Tensor) -> torch.Tensor:
        """What ``work`` says, perhaps of more columns than there are; valid until the next call."""
        rows, columns = given[0].shape[:2]
        if rows > self._most_rows or columns > MOST_COLUMNS:
            return self._work(*given)
        size = power_of_two(rows), -(-columns // COLUMNS) * COLUMNS
        return self._recordings[size](*(_to_size(tensor, size) for tensor in given))[:rows]


_pause = threading.Lock()


@contextmanager
def _uncollected() -> Iterator[None]:
    """Python's collector of cycles rests: it would free an old recording that it came upon, and a
    graph that is freed in the middle of a capture ends it."""
    with _pause:  # or who is done first would wake it for the other
        enabled = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if enabled:
                gc.enable()


def relative_error(recorded: torch.Tensor, plain: torch.Tensor) -> float:
    """Of the largest number. NaN if either has one: compare with ``<=``."""
    return float((recorded - plain).abs().max() / plain.abs().max())


def power_of_two(number: int, least: int = 1) -> int:
    """The smallest that is not below either."""
    return 1 << (max(number, least) - 1).bit_length()


def _to_size(tensor: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(B, L, …) -> (*size, …), zeros where there was nothing."""
    rows, columns = tensor.shape[:2]
    behind = [0, 0] * (tensor.ndim - 2)
    return pad(tensor, [*behind, 0, size[1] - columns, 0, size[0] - rows])
