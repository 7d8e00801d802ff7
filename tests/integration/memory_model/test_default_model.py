"""The default model: converted once, whole, with its tokenizer and chat template."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from memory_model import library
from memory_model.base import load_base
from memory_model.errors import ModelError, ModelNotFoundError
from paramem.settings import DEFAULT_MODEL, Settings

CACHE = Path("~/.cache/paramem").expanduser()  # where `make setup` converts it to


@pytest.fixture(scope="module")
def directory() -> Path:
    return library.pull(DEFAULT_MODEL, CACHE)


@pytest.mark.model
def test_the_tokenizer_and_the_chat_template_survive_the_conversion(directory: Path) -> None:
    from transformers import AutoTokenizer

    gguf = library._wheel_gguf()
    original = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    converted = AutoTokenizer.from_pretrained(directory)
    for text in ("The mill grinds oats.", "naïve café, 1984", "川は北へ 🚣 流れる", "a\n\n  b\t"):
        assert converted(text)["input_ids"] == original(text)["input_ids"]
        assert converted.decode(converted(text, add_special_tokens=False)["input_ids"]) == text
    assert converted.chat_template == original.chat_template
    assert converted.eos_token == original.eos_token == "<|im_end|>"


@pytest.mark.model
def test_the_converted_model_answers(directory: Path, tmp_path: Path) -> None:
    base = load_base(DEFAULT_MODEL, cache=CACHE, device="cpu")
    prompt = base.tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    with torch.inference_mode():
        answer = base.lm.generate(**prompt, max_new_tokens=12, do_sample=False)
    text = base.tokenizer.decode(answer[0, prompt["input_ids"].shape[1] :])
    assert "Paris" in text


@pytest.mark.model
def test_the_library_tells_the_facts_of_the_model(directory: Path) -> None:
    entry = library.show(DEFAULT_MODEL, CACHE)
    assert (entry.layers, entry.hidden_size, entry.vocab_size) == (30, 576, 49152)
    assert entry.dtype == "bfloat16"
    assert entry.num_parameters == pytest.approx(134.5e6, rel=0.01)
    assert entry in library.list_models(CACHE)


def test_a_missing_model_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="paramem model pull smollm2-135m"):
        library.locate(DEFAULT_MODEL, tmp_path)


def test_an_unknown_name_is_refused_with_advice(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="neither 'smollm2-135m', nor a directory"):
        library.pull("no/such-model", tmp_path)


def test_a_local_directory_is_a_model(tiny_model: Path, tmp_path: Path) -> None:
    assert library.pull(str(tiny_model), tmp_path) == tiny_model
    assert library.show(str(tiny_model), tmp_path).layers == 3


def test_nf4_without_cuda_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="needs a CUDA device"):
        load_base(str(tiny_model), cache=tmp_path, device="cpu", quantization="nf4")


def test_the_default_cache_is_where_setup_converts_to() -> None:
    assert Settings().cache == CACHE
