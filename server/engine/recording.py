"""Work of a GPU that is recorded once and replayed: a small step waits for Python, not for the GPU.

Launching the kernels of a decode step of Llama-3.1-8B takes 20 to 40 ms, reading its weights 4
(benchmarks/RESULTS.md). As a CUDA graph the step is one launch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch

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
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            self._result = self._work(*self._given)
