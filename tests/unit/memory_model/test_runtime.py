"""Which bundle a process opens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from memory_model import runtime
from memory_model.bundle import Bundle, save_bundle
from memory_model.errors import BundleError
from memory_model.runtime import ReadingModel, open_bundle
from paramem.settings import ReaderKind, Settings
from server.engine.generator import QueryReading
from server.reranking import Candidate, score_candidates


@pytest.fixture
def saved(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    """A bundle of 4 slots x 32 numbers."""
    save_bundle(tmp_path / "bundle", tiny_bundle.config, tiny_bundle.heads)
    return tmp_path / "bundle"


def test_a_bundle_brings_its_own_shape(saved: Path, tiny_model: Path, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, model=str(tiny_model), bundle=saved, device="cpu")
    assert open_bundle(settings).config.slots == 4


def test_asking_a_bundle_for_another_dimension_is_refused_with_both(
    saved: Path, tiny_model: Path, tmp_path: Path
) -> None:
    settings = Settings(home=tmp_path, model=str(tiny_model), bundle=saved, z_dim=16)
    with pytest.raises(BundleError, match=r"PARAMEM_Z_DIM=16.*trained for 32.*untrained"):
        open_bundle(settings)


def test_an_untrained_bundle_can_be_asked_for_by_name(tiny_model: Path, tmp_path: Path) -> None:
    settings = Settings(
        home=tmp_path,
        model=str(tiny_model),
        bundle=Path("untrained"),
        device="cpu",
        slots=2,
        z_dim=16,
    )
    config = open_bundle(settings).config
    assert (config.slots, config.z_dim, config.trained) == (2, 16, False)


def test_an_untrained_bundle_has_no_reader_of_text(tiny_model: Path, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, model=str(tiny_model), reader=ReaderKind.TEXT)
    with pytest.raises(BundleError, match="trained bundle"):
        open_bundle(settings)


def test_with_the_vllm_engine_every_process_leaves_the_weights_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``auto`` would be NF4 on CUDA, which cannot be exported; the worker must not choose it."""
    asked: list[str] = []
    monkeypatch.setattr(
        runtime, "load_base", lambda *_, quantization, **__: asked.append(quantization)
    )
    for engine in ("vllm", "transformers"):
        runtime.open_base(Settings(home=tmp_path, engine=engine), "any")
    runtime.open_base(Settings(home=tmp_path, engine="vllm", quantization="nf4"), "any")
    assert asked == ["none", "auto", "nf4"]


def test_a_model_without_its_layers_still_selects_and_makes_prompts(
    tiny_model: Path, tmp_path: Path
) -> None:
    model = ReadingModel(
        open_bundle(Settings(home=tmp_path, model=str(tiny_model), device="cpu", slots=4, z_dim=32))
    )
    codes = [np.ones((4, 32), dtype=np.float32)]

    def everything() -> list[np.ndarray]:
        vectors = [model.embed_queries(["the cat"], each) for each in model.selections]
        prompt = model.prompt_embeds("the cat", codes, []).numpy()
        return [
            *vectors,
            prompt,
            np.asarray(model.bundle.compressor.compress([[5, 6, 7]]).detach()),
        ]

    before = everything()
    parameters = sum(each.numel() for each in model.lm.parameters())
    model.forget_layers()
    assert sum(each.numel() for each in model.lm.parameters()) < parameters / 2
    for was, now in zip(before, everything(), strict=True):
        np.testing.assert_array_equal(was, now)


@pytest.fixture
def reading_model(tiny_model: Path, tmp_path: Path) -> ReadingModel:
    settings = Settings(home=tmp_path, model=str(tiny_model), device="cpu", slots=4, z_dim=32)
    return ReadingModel(open_bundle(settings))


QUERIES = ["the cat", "a", "where did the heron fish at dawn?"]


def test_queries_in_a_batch_are_selected_for_as_if_alone(reading_model: ReadingModel) -> None:
    for selection in reading_model.selections:
        batch = reading_model.embed_queries(QUERIES, selection)
        alone = [reading_model.embed_queries([query], selection)[0] for query in QUERIES]
        np.testing.assert_allclose(batch, alone, atol=1e-5)
    for query, vectors in zip(QUERIES, reading_model.query_vectors(QUERIES), strict=True):
        [expected] = reading_model.query_vectors([query])
        np.testing.assert_allclose(vectors, expected, atol=1e-5)


def test_query_and_slot_vectors_score_as_the_reranker_does(reading_model: ReadingModel) -> None:
    codes = list(np.random.default_rng(0).standard_normal((3, 4, 32), np.float32))
    router = [0.3, 0.2, 0.1]
    candidates = [Candidate(slots, None) for slots in reading_model.slot_vectors(codes)]
    bundle = reading_model.bundle
    for query, vectors in zip(QUERIES, reading_model.query_vectors(QUERIES), strict=True):
        reading = QueryReading(vectors, {})
        scores = score_candidates(reading, candidates, router, reading_model.router_weight)
        with torch.no_grad():
            tokens = bundle.compressor.compress_tokens([bundle.base.tokenize(query)])[0]
            expected = bundle.selector.reranker(
                tokens, torch.from_numpy(np.stack(codes)), torch.tensor(router)
            )
        assert scores == pytest.approx(expected.tolist(), abs=1e-3)
        assert len(set(scores)) == 3


def test_recorded_queries_are_selected_for_as_before(reading_model: ReadingModel) -> None:
    def everything() -> list[np.ndarray]:
        selections = reading_model.selections
        vectors = [reading_model.embed_queries(QUERIES, selection) for selection in selections]
        return [*vectors, *reading_model.query_vectors(QUERIES)]

    before = everything()
    reading_model.record_queries(4)
    for was, now in zip(before, everything(), strict=True):
        np.testing.assert_allclose(was, now, atol=1e-5)
