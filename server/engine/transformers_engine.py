"""The embedded engine: transformers on CPU or GPU, with continuous batching.

transformers' own continuous batching takes token ids only; memories enter as ``inputs_embeds``,
hence the batch and the scheduler beside this file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog
import torch

from memory_model.recording import MOST_ERROR, relative_error
from paramem.settings import Settings
from server.engine.batch import Batch
from server.engine.kv_cache import bytes_per_position
from server.engine.model_engine import ModelEngine
from server.engine.scheduler import Scheduler
from server.engine.spare_memory import spare_memory

if TYPE_CHECKING:
    from memory_model.runtime import ReadingModel

KV_SHARE = 0.5  # of free memory: a worker may start beside, and a forward needs room of its own

log = structlog.get_logger(__name__)


def load_reading_model(settings: Settings) -> ReadingModel:
    """Load what ``settings`` name; takes seconds to minutes."""
    # these imports take seconds too: not in the event loop
    from memory_model.runtime import ReadingModel, open_bundle

    model = ReadingModel(open_bundle(settings))
    model.pack(may_round=settings.may_round_weights)
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
        # whatever this model cannot do shows now, not at a request
        plain = first_steps(model, recorded=False)
        return Scheduler(
            model,
            max_batch_size=self._settings.max_batch_size,
            num_threads=self._num_threads,
            most_positions=self._most_positions(model),
            recorded=model.device.type == "cuda" and can_be_recorded(model, plain),
        )

    @torch.inference_mode()
    def _most_positions(self, model: ReadingModel) -> int:
        """Of the keys and values of all that run."""
        gib = self._settings.kv_cache_gib
        most = int(KV_SHARE * spare_memory(model.device) if gib is None else gib * 2**30)
        positions = most // bytes_per_position(model.lm)
        log.info("kv_cache", positions=positions, gib=round(most / 2**30, 2))
        return positions


@torch.inference_mode()
def first_steps(model: ReadingModel, *, recorded: bool) -> torch.Tensor:
    """Ragged rows and a step of both. Returns: (4, V) logits in float32."""
    token = model.embed_tokens(torch.zeros(1, dtype=torch.long, device=model.device))
    batch = Batch(model.lm, recorded=recorded)
    joined = [batch.join([token]), batch.join([token.expand(2, -1)])]
    return torch.cat([*joined, batch.step([0, 0])]).float()


def can_be_recorded(model: ReadingModel, plain: torch.Tensor) -> bool:
    """Whether recorded steps say what ``plain`` ones do (``first_steps``). Where not, the engine
    is slower, not gone."""
    try:
        recorded = first_steps(model, recorded=True)
    except RuntimeError:  # an operator that waits for the device, say
        log.warning("steps_not_recorded", exc_info=True)
        return False
    error = relative_error(recorded, plain)
    same = error <= MOST_ERROR  # not where it is NaN
    if not same:
        log.warning("recorded_steps_differ", relative_error=error)
    return same
