"""The vLLM engine: paged attention and prefix caching for one GPU and many clients.

Selection, re-ranking and prompts stay in this process, on the CPU; vLLM generates in another. Cost:
each start loads the whole LLM into the machine's memory once, to merge the reader's LoRA, and then
lets go of all but its embeddings and first layers; the merged weights take their size on the disk.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from memory_model import library
from memory_model.base import chosen_device, chosen_dtype
from memory_model.export import export_reader
from memory_model.runtime import ReadingModel, open_bundle
from paramem.settings import Settings
from server.engine.model_engine import ModelEngine
from server.engine.vllm_core import Sampling, VllmCore, start_vllm

Start = Callable[[Path, torch.dtype, Settings], tuple[Any, Sampling, type[Exception]]]


class VllmEngine(ModelEngine):
    """Generates with vLLM's ``AsyncLLM``."""

    def __init__(self, settings: Settings, *, start: Start = start_vllm) -> None:
        super().__init__(settings, self._load, self._start_core)
        self._start_llm = start
        self._directory = Path()  # of the merged weights, once loaded
        self._dtype = torch.float32

    def _load(self, settings: Settings) -> ReadingModel:
        bundle = open_bundle(settings.model_copy(update={"device": "cpu"}))
        self._directory = export_reader(bundle, settings.cache, settings.reader)
        self._dtype = chosen_dtype(
            settings.dtype,
            torch.device(chosen_device("auto")),  # vLLM's, whatever this process computes on
            library.show(str(bundle.base.path), settings.cache),
        )
        model = ReadingModel(bundle)
        model.forget_layers()
        model.pack_selection(may_round=settings.may_round_weights)
        return model

    def _start_core(self, model: ReadingModel) -> VllmCore:
        llm, sampling, dead_error = self._start_llm(self._directory, self._dtype, self._settings)
        return VllmCore(
            model,
            llm,
            sampling=sampling,
            dead_error=dead_error,
            max_batch_size=self._settings.max_batch_size,
        )
