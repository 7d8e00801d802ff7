"""What every ``MemoryWriter`` must do; each writer's test file derives a class from the suite."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from memory_store.records import MemorySpec, Tier
from trainer_worker.writer import MemoryWriter, SourceDocument, WriteError, Written

LONG = SourceDocument("long", "The cat sat on the mat. The dog sat on the log. " * 4)
SLOTS = 3
SHORT = SourceDocument("short", "  A frog.\n")
EMPTY = SourceDocument("empty", " \n ")


def ignore(_shares: Sequence[float], _stage: str) -> None:
    pass


def of(writer: MemoryWriter) -> MemorySpec:
    """A collection's, with an m that is not the writer's own."""
    return replace(writer.spec, slots=SLOTS)


def written(outcome: Written | WriteError) -> Written:
    assert isinstance(outcome, Written)
    return outcome


class WriterConformance:
    def make_writer(self) -> MemoryWriter:
        """With passages shorter than ``LONG``."""
        raise NotImplementedError

    @pytest.fixture
    def writer(self) -> MemoryWriter:
        return self.make_writer()

    @pytest.mark.parametrize("tier", list(Tier))
    def test_every_passage_gets_a_memory_of_the_shape_asked_for(
        self, writer: MemoryWriter, tier: Tier
    ) -> None:
        outcomes = writer.write([LONG, SHORT], tier, of(writer), ignore)
        long, short = [written(outcome) for outcome in outcomes]
        assert len(long.passages) > 1
        assert len(short.passages) == 1
        for document, result in ((LONG, long), (SHORT, short)):
            assert result.result["passages"] == len(result.passages)
            assert result.result["perplexity"] == pytest.approx(np.exp(result.result["loss"]))
            assert {"token_accuracy", "steps"} <= result.result.keys()
            for memory in result.passages:
                assert memory.codes.shape == (SLOTS, writer.spec.z_dim)
                assert memory.codes.dtype == np.float32
                assert np.isfinite(memory.codes).all()
                assert np.linalg.norm(memory.key) == pytest.approx(1.0, abs=1e-5)
                assert memory.num_tokens > 0
            spans = [document.text[m.text_start : m.text_end] for m in result.passages]
            assert "".join("".join(spans).split()) == "".join(document.text.split())

    def test_outcomes_are_in_order_and_an_empty_document_fails_alone(
        self, writer: MemoryWriter
    ) -> None:
        first, refused, last = writer.write([SHORT, EMPTY, LONG], Tier.FAST, of(writer), ignore)
        assert isinstance(refused, WriteError)
        assert "empty" in refused.code
        assert len(written(first).passages) == 1
        assert len(written(last).passages) > 1

    def test_a_batch_writes_what_each_document_alone_would_get(self, writer: MemoryWriter) -> None:
        both = writer.write([LONG, SHORT], Tier.FAST, of(writer), ignore)
        together = written(both[1]).passages[0]
        alone = written(writer.write([SHORT], Tier.FAST, of(writer), ignore)[0]).passages[0]
        np.testing.assert_allclose(together.codes, alone.codes, atol=1e-4)
        np.testing.assert_allclose(together.key, alone.key, atol=1e-5)

    def test_refinement_changes_the_codes_and_keeps_the_key(self, writer: MemoryWriter) -> None:
        fast = written(writer.write([SHORT], Tier.FAST, of(writer), ignore)[0]).passages[0]
        fit = written(writer.write([SHORT], Tier.FIT, of(writer), ignore)[0]).passages[0]
        np.testing.assert_allclose(fit.key, fast.key, atol=1e-6)
        assert np.abs(fit.codes - fast.codes).max() > 0

    def test_progress_grows_to_one_for_every_document(self, writer: MemoryWriter) -> None:
        seen: list[list[float]] = []

        def see(shares: Sequence[float], _stage: str) -> None:
            seen.append(list(shares))

        writer.write([LONG, SHORT], Tier.FIT, of(writer), see)
        for earlier, later in itertools.pairwise(seen):
            assert all(a <= b + 1e-9 for a, b in zip(earlier, later, strict=True))
        assert seen[-1] == pytest.approx([1.0, 1.0])

    def test_what_the_progress_callback_raises_abandons_the_batch(
        self, writer: MemoryWriter
    ) -> None:
        def abandon(_shares: Sequence[float], _stage: str) -> None:
            raise InterruptedError

        with pytest.raises(InterruptedError):
            writer.write([LONG, SHORT], Tier.FIT, of(writer), abandon)
