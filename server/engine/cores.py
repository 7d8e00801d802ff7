"""Who computes with how many cores: the engine's thread with all of them, its helper with one.

GNU OpenMP, which torch computes with, gives every thread that computes in parallel a team of its
own. As soon as the teams have more members than there are cores, members sleep between two
operators instead of spinning for the next. A forward of a small LLM is a thousand operators: it
took 1.4 times as long on two cores once a second thread had computed with both
(experiments/LOG.md). A team ends with its thread, so one that only loads may have one.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch

from memory_model.base import chosen_device
from paramem.settings import EngineKind, Settings


def helper_thread(settings: Settings, name: str) -> ThreadPoolExecutor:
    """A thread for what comes before generating. It has one core, unless the LLM computes on other
    ones: in a process of its own, or on an accelerator."""
    shares = settings.engine is not EngineKind.VLLM and chosen_device(settings.device) == "cpu"
    if shares:
        return ThreadPoolExecutor(1, name, initializer=use_cores, initargs=(1,))
    return ThreadPoolExecutor(1, name)


def use_cores(number: int) -> None:
    """From here on, torch computes with so many in this thread."""
    torch.get_num_threads()  # a thread's first call takes over whatever another one set last
    torch.set_num_threads(number)
