"""What every prompt begins with is computed once, and changes nothing of what is answered."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from transformers import PreTrainedModel

from memory_model.runtime import ReadingModel
from server.engine.batch import Batch
from server.engine.cached_prefix import CachedPrefix, cached_prefix
from tests.unit.server.engine.tiny_lm import full_lm

pytestmark = [
    pytest.mark.usefixtures("inference"),
    pytest.mark.skipif(
        "fbgemm" not in torch.backends.quantized.supported_engines, reason="packs on x86 CPUs only"
    ),
]

HIDDEN, LENGTH = 64, 9


@pytest.fixture
def prefix(lm: PreTrainedModel) -> CachedPrefix:
    return CachedPrefix(lm, random(LENGTH, 0))


@pytest.fixture
def computed(lm: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Positions of each forward from here on."""
    seen: list[int] = []
    forward = lm.base_model.forward

    def counting(*args: Any, inputs_embeds: torch.Tensor, **named: Any) -> Any:
        seen.append(inputs_embeds.shape[1])
        return forward(*args, inputs_embeds=inputs_embeds, **named)

    monkeypatch.setattr(lm.base_model, "forward", counting)
    return seen


def random(length: int, seed: int) -> torch.Tensor:
    return torch.randn(length, HIDDEN, generator=torch.Generator().manual_seed(seed)) * 0.2


def begun(length: int, seed: int) -> torch.Tensor:
    """A prompt of the prefix and ``length`` positions more."""
    return torch.cat([random(LENGTH, 0), random(length, seed)])


def test_prompts_that_begin_with_it_get_what_they_would_get_computed_whole(
    lm: PreTrainedModel, prefix: CachedPrefix, computed: list[int]
) -> None:
    known, whole = Batch(lm, prefix=prefix), Batch(lm)
    prompts = [begun(30, 1), random(20, 2), begun(1, 3)]
    logits = [known.join(prompts), known.step([7, 8, 9]), known.join([begun(5, 4)], [4, 5, 6])]
    assert computed == [30 + 20 + 1, 3, 3 + 5]
    expected = [whole.join(prompts), whole.step([7, 8, 9]), whole.join([begun(5, 4)], [4, 5, 6])]
    torch.testing.assert_close(torch.cat(logits), torch.cat(expected), atol=2e-4, rtol=1e-3)
    stepped = known.step([1, 2, 3, 4]), whole.step([1, 2, 3, 4])
    torch.testing.assert_close(*stepped, atol=2e-4, rtol=1e-3)


def nearly(seed: int) -> torch.Tensor:
    prompt = begun(4, seed)
    prompt[LENGTH - 1, -1] += 1e-3
    return prompt


@pytest.mark.parametrize(
    "prompt",
    [random(LENGTH, 0), random(LENGTH - 1, 0), nearly(1), torch.full((20, HIDDEN), torch.nan)],
    ids=["nothing but the prefix", "shorter", "nearly", "not numbers"],
)
def test_any_other_prompt_is_computed_whole(
    lm: PreTrainedModel, prefix: CachedPrefix, computed: list[int], prompt: torch.Tensor
) -> None:
    logits = Batch(lm, prefix=prefix).join([prompt])
    assert computed == [len(prompt)]
    torch.testing.assert_close(logits, Batch(lm).join([prompt]), equal_nan=True)


class Model:
    """What is asked of a reading model."""

    def __init__(self, lm: PreTrainedModel, embeds: torch.Tensor) -> None:
        self.lm = lm
        self._embeds = embeds

    def prefix_embeds(self) -> torch.Tensor:
        return self._embeds


def cached(lm: PreTrainedModel, embeds: torch.Tensor) -> CachedPrefix | None:
    return cached_prefix(cast(ReadingModel, Model(lm, embeds)))


def test_a_model_that_is_not_packed_has_none_nor_one_whose_prompts_begin_with_nothing(
    lm: PreTrainedModel, tiny_model: Path
) -> None:
    assert cached(full_lm(tiny_model), random(3, 0)) is None
    assert cached(lm, random(0, 0)) is None
    known = cached(lm, random(3, 0))
    assert known is not None
    assert known.length_in(random(4, 2)) == 0
    assert known.length_in(torch.cat([random(3, 0), random(1, 1)])) == 3
