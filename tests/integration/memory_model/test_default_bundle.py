"""The bundle that comes with the default model: what it is, and that it answers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from clients.demo import demo_documents, demo_questions
from memory_model.bundle import read_config, rival_directory
from memory_model.reader import ABSENT_ANSWER
from memory_model.runtime import SHIPPED, ReadingModel, open_bundle
from paramem.settings import DEFAULT_MODEL, ReaderKind, Settings

BUNDLE = SHIPPED / DEFAULT_MODEL
MAX_BYTES = 45_000_000


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ReadingModel:
    settings = Settings(home=tmp_path_factory.mktemp("home"), device="cpu")
    return ReadingModel(open_bundle(settings))


def answer(model: ReadingModel, prompt: torch.Tensor) -> str:
    """Greedy. ``prompt``: (T, h)"""
    with torch.inference_mode():
        ids = model.lm.generate(
            inputs_embeds=prompt[None],
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=16,
            pad_token_id=0,
        )[0]
    return model.decode(ids.tolist())


def test_it_is_small_and_holds_nothing_that_can_run() -> None:
    files = [file for file in BUNDLE.rglob("*") if file.is_file()]
    assert {file.suffix for file in files} == {".json", ".safetensors", ".md"}
    assert sum(file.stat().st_size for file in files) <= MAX_BYTES
    assert read_config(BUNDLE).trained
    assert (rival_directory(BUNDLE) / "adapter_model.safetensors").is_file()


def test_its_card_says_what_it_was_trained_on_and_how() -> None:
    card = (BUNDLE / "README.md").read_text(encoding="utf-8")
    for told in ("squad-train", "paramem train --config", "Limits", "licen"):
        assert told in card


@pytest.mark.model
def test_it_answers_questions_from_the_memory_of_their_document(model: ReadingModel) -> None:
    bundle = model.bundle
    documents = {document.id: document for document in demo_documents("fast")}
    right = 0
    for question in demo_questions():
        tokens = bundle.base.tokenize(documents[question.document].text)
        with torch.inference_mode():
            codes = bundle.compressor.compress([tokens])[0]  # (m, d)
        prompt = model.prompt_embeds(question.question, [codes.numpy()], [])
        right += question.is_answered_by(answer(model, prompt))
    assert right >= 3  # of 6, in names that no model can know; closed book: none


@pytest.mark.model
def test_it_says_when_it_was_given_nothing(model: ReadingModel) -> None:
    prompt = model.prompt_embeds(demo_questions()[0].question, [], [])
    assert answer(model, prompt).strip() == ABSENT_ANSWER


@pytest.mark.model
def test_its_rival_reads_the_same_documents_as_text(tmp_path: Path) -> None:
    rival = ReadingModel(open_bundle(Settings(home=tmp_path, device="cpu", reader=ReaderKind.TEXT)))
    question = demo_questions()[0]
    [text] = [doc.text for doc in demo_documents("fast") if doc.id == question.document]
    assert question.is_answered_by(
        answer(rival, rival.prompt_embeds(question.question, [], [text]))
    )
