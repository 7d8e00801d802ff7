"""The LLM as a ``MemoryWriter``: compress (fast), then refine by gradient (fit)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from memory_model.bundle import Bundle
from memory_model.device_loss import is_lost
from memory_model.passages import Passage, PassageSplitter
from memory_model.runtime import open_bundle
from memory_store.records import CodeFormat, MemorySpec, PassageMemory, Tier
from memory_store.slot_quantiser import SlotQuantiser
from paramem.settings import Settings
from trainer_worker.fit import Fitter
from trainer_worker.rounding import as_stored
from trainer_worker.splitting import split_document
from trainer_worker.writer import DeviceLost, Progress, SourceDocument, WriteError, Written

FIT_PASSAGES_ON_CPU = 4
"""That a step of a fit reads together there: more take longer each, and whoever wants the cores, a
query or a new document, waits for a step to end."""


@dataclass(frozen=True, slots=True)
class _Item:
    """One passage of one document of the batch."""

    document: int
    passage: Passage


class ModelWriter:
    """Writes memories with a loaded bundle."""

    def __init__(self, bundle: Bundle, settings: Settings) -> None:
        self._bundle = bundle
        self._splitter = PassageSplitter(bundle.base.tokenize, settings.passage_tokens)
        self._fitter = Fitter(
            bundle, steps=settings.fit_steps, learning_rate=settings.fit_learning_rate
        )
        self._batch_passages = settings.batch_passages
        self._measures_fast = settings.measure_fast
        self.spec = MemorySpec(
            fingerprint=bundle.fingerprint,
            slots=settings.slots or bundle.config.slots,
            z_dim=bundle.config.z_dim,
            code_format=CodeFormat(settings.code_format),
        )

    @property
    def quantiser(self) -> SlotQuantiser | None:
        return self._bundle.slot_quantiser

    @classmethod
    def load(cls, settings: Settings) -> ModelWriter:
        """Load the model and its bundle; seconds to minutes.

        Raises:
            ModelError: the model or the bundle cannot be used.
        """
        bundle = open_bundle(settings)
        prepare(bundle, may_round=settings.may_round_weights)
        return cls(bundle, settings)

    def write(
        self, documents: Sequence[SourceDocument], tier: Tier, spec: MemorySpec, progress: Progress
    ) -> list[Written | WriteError]:
        """See :class:`MemoryWriter`. Passages of all documents share batches, by length."""
        try:
            return self._write(documents, tier, spec, progress)
        except Exception as error:
            if is_lost(self._bundle.base.device):
                raise DeviceLost from error
            raise

    def _write(
        self, documents: Sequence[SourceDocument], tier: Tier, spec: MemorySpec, progress: Progress
    ) -> list[Written | WriteError]:
        split = [split_document(self._splitter, document.text) for document in documents]
        items = [
            _Item(number, passage)
            for number, passages in enumerate(split)
            if not isinstance(passages, WriteError)
            for passage in passages
        ]
        meter = _Meter(items, len(documents), tier, progress)
        made: dict[tuple[int, int], PassageMemory] = {}
        for batch in self._batches(items, tier):
            memories = self._write_batch(batch, tier, spec, meter)
            made |= {
                (item.document, item.passage.start): memory
                for item, memory in zip(batch, memories, strict=True)
            }
        return [
            passages
            if isinstance(passages, WriteError)
            else _summarise([made[number, passage.start] for passage in passages])
            for number, passages in enumerate(split)
        ]

    def _batches(self, items: Sequence[_Item], tier: Tier) -> Iterator[list[_Item]]:
        """Batches of passages of similar length, so that little padding is computed."""
        most = self._batch_passages
        if tier is Tier.FIT and self._bundle.base.device.type == "cpu":
            most = min(most, FIT_PASSAGES_ON_CPU)
        ordered = sorted(items, key=lambda item: len(item.passage.token_ids))
        for start in range(0, len(ordered), most):
            yield ordered[start : start + most]

    def _write_batch(
        self, batch: Sequence[_Item], tier: Tier, spec: MemorySpec, meter: _Meter
    ) -> list[PassageMemory]:
        passages = [item.passage for item in batch]
        token_ids = [passage.token_ids for passage in passages]
        with torch.no_grad():
            codes = self._bundle.compressor.compress(token_ids, spec.slots)  # (B, m, d)
            # the key is the text's, not the codes': refinement leaves it as it is
            index_keys = self._bundle.selector.keys([p.text for p in passages]).cpu().numpy()
        meter.report(batch, 0.0)
        rounding = as_stored(spec.code_format, self.quantiser)
        if tier is Tier.FIT:
            codes, reports = self._fitter.fit(
                passages,
                codes,
                lambda share: meter.report(batch, share),
                as_stored=rounding,
            )
            stats = [
                {
                    "nats_per_token": report.nats,
                    "nats_per_token_without_memory": report.nats_without_memory,
                    "nats_per_token_first_guess": report.nats_first_guess,
                    "token_accuracy": report.token_accuracy,
                    "held_out_kl": report.held_out_kl,
                    "held_out_kl_first_guess": report.held_out_kl_first_guess,
                    "steps": float(report.steps),
                    "accepted": float(report.accepted),
                }
                for report in reports
            ]
        elif self._measures_fast:
            stats = self._measure(rounding(codes), token_ids, lambda: meter.report(batch, 0.5))
        else:
            stats = [{} for _ in batch]
        meter.report(batch, 1.0)
        stored = codes.cpu().numpy()
        return [
            PassageMemory(
                codes=stored[i],
                key=index_keys[i],
                text_start=passage.start,
                text_end=passage.end,
                num_tokens=len(passage.token_ids),
                stats=stats[i],
            )
            for i, passage in enumerate(passages)
        ]

    def _measure(
        self,
        codes: torch.Tensor,
        token_ids: Sequence[Sequence[int]],
        half_done: Callable[[], None],
    ) -> list[dict[str, float]]:
        """How well the first guess remembers, per passage."""
        loss, accuracy = self._fitter.measure(codes, token_ids)
        half_done()
        without, _ = self._fitter.measure(None, token_ids)
        return [
            {
                "nats_per_token": float(loss[i]),
                "nats_per_token_without_memory": float(without[i]),
                "token_accuracy": float(accuracy[i]),
                "steps": 0.0,
            }
            for i in range(len(token_ids))
        ]


def prepare(bundle: Bundle, *, may_round: bool) -> None:
    """Make a loaded bundle fast for writing, which is all that it is good for then.

    ``may_round``: weights that need no gradients, from float32 to float16.
    """
    for encoder in bundle.encoders:
        encoder.pack(may_round=may_round)
    if bundle.base.device.type == "cpu" and bundle.base.dtype is torch.bfloat16:
        # a step of four passages takes 0.7 of the time that it takes with fused attention
        bundle.read_lm.set_attn_implementation("eager")


class _Meter:
    """Turns progress on passages into progress on documents."""

    def __init__(
        self, items: Sequence[_Item], documents: int, tier: Tier, progress: Progress
    ) -> None:
        self._totals = [0] * documents
        for item in items:
            self._totals[item.document] += 1
        self._done = [0.0] * documents
        self._shares: dict[tuple[int, int], float] = {}
        self._stage = str(tier)
        self._progress = progress

    def report(self, batch: Sequence[_Item], share: float) -> None:
        for item in batch:
            key = (item.document, item.passage.start)
            self._done[item.document] += share - self._shares.get(key, 0.0)
            self._shares[key] = share
        self._progress(
            [
                done / total if total else 1.0
                for done, total in zip(self._done, self._totals, strict=True)
            ],
            self._stage,
        )


def _summarise(passages: list[PassageMemory]) -> Written:
    """The document's figures: token-weighted means over its passages."""
    tokens = np.array([passage.num_tokens for passage in passages], dtype=np.float64)
    result: dict[str, Any] = {"passages": len(passages), "tokens": int(tokens.sum())}
    for name in passages[0].stats:
        values = np.array([passage.stats[name] for passage in passages])
        result[name] = float((values * tokens).sum() / tokens.sum())
    if "nats_per_token" in result:
        result["loss"] = result["nats_per_token"]
        result["perplexity"] = math.exp(min(result["nats_per_token"], 50.0))
    return Written(passages, result)
