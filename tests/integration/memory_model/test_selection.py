"""Query vectors select the passage that a question is about, on the default model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from clients.demo import demo_documents, demo_questions
from memory_model.runtime import ReadingModel, open_bundle
from paramem.settings import Settings


@pytest.fixture(scope="module", params=[None, Path("untrained")], ids=["shipped", "untrained"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ReadingModel:
    home = tmp_path_factory.mktemp("home")
    return ReadingModel(open_bundle(Settings(home=home, device="cpu", bundle=request.param)))


@pytest.mark.model
@pytest.mark.parametrize("selection", ["router", "cosine"])
def test_both_bundles_select_among_the_demo_documents(model: ReadingModel, selection: str) -> None:
    bundle, documents = model.bundle, demo_documents("fast")
    with torch.inference_mode():
        index = bundle.selector.keys([item.text for item in documents]).numpy()  # (documents, d)
    right = 0
    for question in demo_questions():
        vector = model.embed_queries([question.question], selection)[0]
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
        right += documents[int((index @ vector).argmax())].id == question.document
    assert right == 6  # by chance 0.3


def test_an_unknown_selection_is_a_key_error(tiny_bundle_model: ReadingModel) -> None:
    with pytest.raises(KeyError):
        tiny_bundle_model.embed_queries(["who?"], "magic")


@pytest.fixture
def tiny_bundle_model(tiny_model: Path, tmp_path: Path) -> ReadingModel:
    settings = Settings(home=tmp_path, model=str(tiny_model), device="cpu", slots=4, z_dim=32)
    return ReadingModel(open_bundle(settings))
