"""Both writers against the suite of every writer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from transformers import LlamaModel

from memory_model.bundle import Bundle
from memory_model.packed_llama import PackedLlama
from memory_model.passages import Passage
from memory_store.records import CodeFormat, Tier
from paramem.settings import Settings
from tests.integration.writers.conformance import (
    SHORT,
    WriterConformance,
    ignore,
    of,
    written,
)
from trainer_worker import fit, model_writer
from trainer_worker.dummy_writer import DummyWriter
from trainer_worker.fit import Fitter
from trainer_worker.model_writer import ModelWriter
from trainer_worker.rounding import as_stored
from trainer_worker.writer import DeviceLost


class TestDummyWriter(WriterConformance):
    def make_writer(self) -> DummyWriter:
        return DummyWriter.from_settings(Settings(slots=4, z_dim=64, passage_tokens=16))


class TestModelWriter(WriterConformance):
    @pytest.fixture(autouse=True)
    def _bundle(self, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        # a random model's answers mean nothing: its refinements are always accepted here
        monkeypatch.setattr(fit, "HELD_OUT_TOLERANCE_NATS", 1e9)
        self.bundle = tiny_bundle
        self.settings = Settings(
            home=tmp_path,
            slots=4,
            z_dim=32,
            passage_tokens=64,
            fit_steps=3,
            batch_passages=2,
            measure_fast=True,
        )

    def make_writer(self) -> ModelWriter:
        return ModelWriter(self.bundle, self.settings)

    @pytest.mark.parametrize("lost", [True, False])
    def test_a_failure_of_the_device_is_told_from_one_of_the_document(
        self, monkeypatch: pytest.MonkeyPatch, lost: bool
    ) -> None:
        def fail(*_: object) -> NoReturn:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

        writer = self.make_writer()
        monkeypatch.setattr(self.bundle.compressor, "compress", fail)
        monkeypatch.setattr(model_writer, "is_lost", lambda _device: lost)
        with pytest.raises(DeviceLost if lost else RuntimeError):
            writer.write([SHORT], Tier.FAST, of(writer), ignore)

    def test_a_fit_on_a_cpu_reads_few_passages_at_a_time(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.settings = self.settings.model_copy(update={"batch_passages": 6})
        writer = self.make_writer()
        read: list[int] = []
        fitted = Fitter.fit

        def fit(fitter: Fitter, passages: Sequence[Passage], *rest: Any, **named: Any) -> Any:
            read.append(len(passages))
            return fitted(fitter, passages, *rest, **named)

        monkeypatch.setattr(Fitter, "fit", fit)
        documents = [replace(SHORT, document_id=f"short-{number}") for number in range(5)]
        for outcome in writer.write(documents, Tier.FIT, of(writer), ignore):
            assert written(outcome).result["steps"] == 3
        assert read == [4, 1]

    def test_a_refinement_is_of_what_readers_will_get(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        writer = self.make_writer()
        read: list[torch.Tensor] = []
        recall = Fitter._recall

        def reading(fitter: Fitter, codes: torch.Tensor | None, *rest: Any) -> Any:
            if codes is not None:
                read.append(codes)
            return recall(fitter, codes, *rest)

        monkeypatch.setattr(Fitter, "_recall", reading)
        spec = replace(of(writer), code_format=CodeFormat.INT4)
        [fitted] = written(writer.write([SHORT], Tier.FIT, spec, ignore)[0]).passages
        descending = [codes for codes in read if codes.requires_grad]
        guess, refined = (codes for codes in read if not codes.requires_grad)
        assert len(descending) == 3
        rounding = as_stored(CodeFormat.INT4, None)
        for codes in (*descending, guess, refined):  # of 15 values a slot
            kept = rounding(codes.detach())
            np.testing.assert_allclose(codes.detach().numpy(), kept.numpy(), rtol=1e-3, atol=1e-6)
        assert not torch.equal(guess, refined)
        # what goes to the store was not rounded before
        assert np.unique(fitted.codes[0]).size > 15

    def test_new_collections_get_as_many_slots_as_the_settings_say(self) -> None:
        self.settings = self.settings.model_copy(update={"slots": 7})
        assert self.make_writer().spec.slots == 7
        self.settings = self.settings.model_copy(update={"slots": None})
        assert self.make_writer().spec.slots == self.bundle.config.slots

    def test_fast_memories_are_measured_only_if_asked_for(self) -> None:
        writer = self.make_writer()
        measured = writer.write([SHORT], Tier.FAST, of(writer), ignore)[0]
        self.settings = self.settings.model_copy(update={"measure_fast": False})
        writer = self.make_writer()
        plain = writer.write([SHORT], Tier.FAST, of(writer), ignore)[0]
        np.testing.assert_array_equal(
            written(plain).passages[0].codes, written(measured).passages[0].codes
        )
        assert "loss" in written(measured).result
        assert written(plain).result == {
            "passages": 1,
            "tokens": written(measured).result["tokens"],
        }


@pytest.mark.skipif(
    "fbgemm" not in torch.backends.quantized.supported_engines, reason="packs on x86 CPUs only"
)
def test_a_loaded_writer_writes_with_packed_layers_what_plain_ones_write(
    tiny_model: Path, tmp_path: Path
) -> None:
    plain, packed = (
        ModelWriter.load(
            Settings(
                home=tmp_path, model=str(tiny_model), device="cpu", dtype=dtype, slots=4, z_dim=32
            )
        )
        for dtype in ("float32", "auto")
    )
    assert plain.spec == packed.spec
    for encoder in packed._bundle.encoders:
        assert isinstance(encoder.trunk, PackedLlama)
    assert type(plain._bundle.compressor.encoder.trunk) is LlamaModel
    expected, got = (
        written(writer.write([SHORT], Tier.FAST, of(writer), ignore)[0]).passages[0]
        for writer in (plain, packed)
    )
    # the untrained heads divide by what varies little: float16 weights show in the codes
    np.testing.assert_allclose(got.codes, expected.codes, atol=0.05)
    np.testing.assert_allclose(got.key, expected.key, atol=1e-2)


@pytest.mark.parametrize(
    ("dtype", "attention"), [("auto", "sdpa"), ("float32", "sdpa"), ("bfloat16", "eager")]
)
def test_a_loaded_writer_fits_with_the_attention_that_is_fastest(
    tiny_model: Path, tmp_path: Path, dtype: str, attention: str
) -> None:
    writer = ModelWriter.load(
        Settings(
            home=tmp_path,
            model=str(tiny_model),
            device="cpu",
            dtype=dtype,
            slots=4,
            z_dim=32,
            fit_steps=2,
        )
    )
    assert writer._bundle.read_lm.config._attn_implementation == attention
    fitted = written(writer.write([SHORT], Tier.FIT, of(writer), ignore)[0])
    assert fitted.result["steps"] == 2
