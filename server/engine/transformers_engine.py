"""The embedded engine: transformers on CPU or GPU, with continuous batching.

transformers' own continuous batching takes token ids only; memories enter as ``inputs_embeds``,
hence the batch and the scheduler beside this file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from paramem.settings import Settings
from server.engine.batch import Batch
from server.engine.model_engine import ModelEngine
from server.engine.scheduler import Scheduler

if TYPE_CHECKING:
    from memory_model.runtime import ReadingModel


def load_reading_model(settings: Settings) -> ReadingModel:
    """Load what ``settings`` name; takes seconds to minutes."""
    # these imports take seconds too: not in the event loop
    from memory_model.runtime import ReadingModel, open_bundle

    model = ReadingModel(open_bundle(settings))
    if settings.may_round_weights:
        model.pack()
    return model


class TransformersEngine(ModelEngine):
    """Generates in a thread of this process."""

    def __init__(
        self,
        settings: Settings,
        *,
        load_model: Callable[[Settings], ReadingModel] = load_reading_model,
    ) -> None:
        super().__init__(settings, load_model, self._start_scheduler)
        self._num_threads = settings.num_threads or torch.get_num_threads()

    def _start_scheduler(self, model: ReadingModel) -> Scheduler:
        with torch.inference_mode():
            # Ragged rows and one step: whatever this model cannot do shows now, not at a request.
            token = model.embed_tokens(torch.zeros(1, dtype=torch.long, device=model.device))
            batch = Batch(model.lm)
            batch.join([token, token.expand(2, -1)])
            batch.step([0, 0])
        return Scheduler(
            model,
            max_batch_size=self._settings.max_batch_size,
            num_threads=self._num_threads,
        )
