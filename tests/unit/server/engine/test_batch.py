"""The running batch: each row sees what it would see alone."""

from __future__ import annotations

import weakref
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    LlamaConfig,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
)

from memory_model.recording import Recording
from server.engine.batch import Batch
from server.engine.kv_cache import LaneLayer
from tests.unit.server.engine.tiny_lm import full_lm, packed_lm

VOCABULARY, HIDDEN = 200, 64
STEPS = 70  # more than the room a layer allocates ahead


pytestmark = pytest.mark.usefixtures("inference")


def sliding_lm(tiny_model: Path) -> PreTrainedModel:
    """Looks back 8 positions only."""
    torch.manual_seed(0)
    shape = LlamaConfig.from_pretrained(tiny_model).to_dict()
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
    config = MistralConfig(
        **{name: shape[name] for name in names},
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
        sliding_window=8,
    )
    return MistralForCausalLM(config).eval()


@pytest.fixture(scope="module", params=[full_lm, sliding_lm, packed_lm])
def lm(request: pytest.FixtureRequest, tiny_model: Path) -> PreTrainedModel:
    made: PreTrainedModel = request.param(tiny_model)
    return made


@pytest.fixture(scope="module", params=[full_lm, sliding_lm])
def plain_lm(request: pytest.FixtureRequest, tiny_model: Path) -> PreTrainedModel:
    made: PreTrainedModel = request.param(tiny_model)
    return made


def prompt(length: int, seed: int) -> torch.Tensor:
    return torch.randn(length, HIDDEN, generator=torch.Generator().manual_seed(seed)) * 0.2


def forced(seed: int) -> list[int]:
    """The tokens a row is fed: arbitrary, so that no argmax decides what is compared."""
    random = torch.Generator().manual_seed(100 + seed)
    return torch.randint(3, VOCABULARY, (STEPS,), generator=random).tolist()


def alone(lm: PreTrainedModel, length: int, seed: int, steps: int) -> torch.Tensor:
    """One forward pass over the whole row, no cache. Returns: (steps + 1, V)."""
    tokens = torch.tensor(forced(seed)[:steps], dtype=torch.long)
    embeds = torch.cat([prompt(length, seed), lm.get_input_embeddings()(tokens)])
    return lm(inputs_embeds=embeds[None]).logits[0, length - 1 :]


@pytest.mark.parametrize("length", [64, 65, 600, 1024, 1025])
def test_a_prompt_of_any_length_is_prefilled_as_it_would_be_alone(
    lm: PreTrainedModel, length: int
) -> None:
    batch = Batch(lm, recorded=True)
    logits = [batch.join([prompt(length, 0)]), batch.step(forced(0)[:1])]
    torch.testing.assert_close(torch.cat(logits), alone(lm, length, 0, 1), atol=2e-4, rtol=1e-3)


# recorded: of fixed sizes and on tensors that stay; without a GPU done anew instead of replayed
@pytest.mark.parametrize("recorded", [False, True])
def test_rows_that_join_and_leave_get_the_logits_they_would_get_alone(
    lm: PreTrainedModel, recorded: bool
) -> None:
    lengths = {0: 5, 1: 75, 2: 17, 3: 2}
    batch = Batch(lm, recorded=recorded)
    rows: list[int] = []
    seen: dict[int, list[torch.Tensor]] = {seed: [] for seed in lengths}

    def join(*seeds: int) -> None:
        logits = batch.join([prompt(lengths[seed], seed) for seed in seeds])
        rows.extend(seeds)
        for seed, row in zip(seeds, logits, strict=True):
            seen[seed].append(row)

    def steps(count: int) -> None:
        for _ in range(count):
            logits = batch.step([forced(seed)[len(seen[seed]) - 1] for seed in rows])
            for seed, row in zip(rows, logits, strict=True):
                seen[seed].append(row)

    def keep(*seeds: int) -> None:
        batch.keep([rows.index(seed) for seed in seeds])
        rows[:] = seeds

    join(0)
    steps(3)
    join(1, 2)  # both longer than the row that is there
    steps(2)
    keep(2, 0)  # the longest leaves, and another takes its lane; rows change places
    steps(1)
    join(3)
    steps(STEPS - 6)
    keep(3)
    steps(2)

    assert len(batch) == 1
    for seed, logits in seen.items():
        expected = alone(lm, lengths[seed], seed, len(logits) - 1)
        torch.testing.assert_close(torch.stack(logits), expected, atol=2e-4, rtol=1e-3)


def test_query_heads_that_share_keys_look_at_them_together_in_bf16(
    plain_lm: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = deepcopy(plain_lm).to(torch.bfloat16)
    batch = Batch(half)
    embeds = prompt(40, 0).to(torch.bfloat16)
    batch.join([embeds])
    heads: list[int] = []
    attention = torch.nn.functional.scaled_dot_product_attention

    def counting(query: torch.Tensor, *given: Any, **named: Any) -> torch.Tensor:
        heads.append(query.shape[1])
        return attention(query, *given, **named)

    with monkeypatch.context() as patched:
        patched.setattr(torch.nn.functional, "scaled_dot_product_attention", counting)
        stepped = batch.step([7])
    assert set(heads) == {half.config.num_key_value_heads}
    token = half.get_input_embeddings()(torch.tensor([7]))
    alone = half(inputs_embeds=torch.cat([embeds, token])[None], use_cache=False).logits[:, -1]
    torch.testing.assert_close(stepped, alone, atol=0.05 * float(alone.abs().max()), rtol=0.05)


@pytest.mark.parametrize("recorded", [False, True])
def test_an_emptied_batch_starts_afresh(lm: PreTrainedModel, recorded: bool) -> None:
    batch = Batch(lm, recorded=recorded)
    batch.join([prompt(40, 1), prompt(90, 3)])
    batch.step([5, 6])
    batch.keep([])
    assert len(batch) == 0
    logits = [batch.join([prompt(4, 2)]), batch.step(forced(2)[:1])]
    torch.testing.assert_close(torch.cat(logits), alone(lm, 4, 2, 1), atol=2e-4, rtol=1e-3)


def test_a_prompt_the_model_refuses_leaves_the_present_rows_alone(lm: PreTrainedModel) -> None:
    batch = Batch(lm)
    batch.join([prompt(6, 1)])
    with pytest.raises(RuntimeError):
        batch.join([torch.zeros(3, HIDDEN + 1)])
    logits = batch.step(forced(1)[:1])
    torch.testing.assert_close(logits[0], alone(lm, 6, 1, 1)[-1], atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("place", [0, 2])
@pytest.mark.parametrize("recorded", [False, True])
def test_a_row_of_nan_spoils_neither_its_neighbours_nor_who_takes_its_place(
    lm: PreTrainedModel, recorded: bool, place: int
) -> None:
    batch = Batch(lm, recorded=recorded)
    prompts, tokens = [prompt(6, 1), prompt(20, 2)], [forced(1)[0], forced(2)[0]]
    prompts.insert(place, torch.full((30, HIDDEN), torch.nan))
    tokens.insert(place, 5)
    batch.join(prompts)
    logits = batch.step(tokens)
    assert logits[place].isnan().all()
    others = [row for row in range(3) if row != place]
    expected = torch.stack([alone(lm, 6, 1, 1)[-1], alone(lm, 20, 2, 1)[-1]])
    torch.testing.assert_close(logits[others], expected, atol=2e-4, rtol=1e-3)

    batch.keep(others)
    batch.join([prompt(3, 3)])
    logits = batch.step([forced(1)[1], forced(2)[1], forced(3)[0]])
    rows = [alone(lm, 6, 1, 2), alone(lm, 20, 2, 2), alone(lm, 3, 3, 1)]
    expected = torch.stack([row[-1] for row in rows])
    torch.testing.assert_close(logits, expected, atol=2e-4, rtol=1e-3)


def test_a_crowd_after_a_long_row_gets_no_more_room_than_it_may_take(lm: PreTrainedModel) -> None:
    batch = Batch(lm, recorded=True, most_positions=2048)
    batch.join([prompt(300, 1)])
    batch.step([5])
    batch.keep([])  # its room is kept: a lane of 512 columns
    seeds = range(2, 10)
    assert batch.fits(len(seeds), 128)
    assert not batch.fits(len(seeds), 300)
    batch.join([prompt(4, seed) for seed in seeds])
    logits = batch.step([forced(seed)[0] for seed in seeds])
    expected = torch.stack([alone(lm, 4, seed, 1)[-1] for seed in seeds])
    torch.testing.assert_close(logits, expected, atol=2e-4, rtol=1e-3)
    batch.keep([3])
    batch.join([prompt(1030, 1)])  # seven of the lanes go, for its columns
    logits = batch.step([forced(5)[1], forced(1)[0]])
    expected = torch.stack([alone(lm, 4, 5, 2)[-1], alone(lm, 1030, 1, 1)[-1]])
    torch.testing.assert_close(logits, expected, atol=2e-4, rtol=1e-3)
    assert batch._cache is not None
    assert batch._cache.layers[-1].room == (2, 2048)  # of two rows that do not fit, what they need


def test_room_that_grows_is_never_held_twice_but_for_one_layer(
    lm: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = Batch(lm)
    batch.join([prompt(6, 1)])
    batch.step(forced(1)[:1])
    assert batch._cache is not None
    before = [weakref.ref(layer._buffers[0].untyped_storage()) for layer in batch._cache.layers]
    make_room = LaneLayer.make_room
    alive: list[int] = []

    def counting(layer: LaneLayer, lanes: int, columns: int) -> None:
        make_room(layer, lanes, columns)
        alive.append(sum(storage() is not None for storage in before))

    monkeypatch.setattr(LaneLayer, "make_room", counting)
    batch.join([prompt(200, 2)])
    assert alive == list(reversed(range(len(before))))


def test_memory_that_runs_out_between_two_layers_spoils_nothing(
    lm: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = Batch(lm)
    batch.join([prompt(6, 1)])
    make_room = LaneLayer.make_room
    calls = 0

    def run_out(layer: LaneLayer, lanes: int, columns: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise torch.OutOfMemoryError
        make_room(layer, lanes, columns)

    monkeypatch.setattr(LaneLayer, "make_room", run_out)
    with pytest.raises(torch.OutOfMemoryError):
        batch.join([prompt(200, 2)])
    logits = batch.step(forced(1)[:1])
    torch.testing.assert_close(logits[0], alone(lm, 6, 1, 1)[-1], atol=2e-4, rtol=1e-3)
    logits = batch.join([prompt(200, 2)])
    torch.testing.assert_close(logits, alone(lm, 200, 2, 0), atol=2e-4, rtol=1e-3)
    logits = batch.step([forced(1)[1], forced(2)[0]])
    expected = torch.stack([alone(lm, 6, 1, 2)[-1], alone(lm, 200, 2, 1)[-1]])
    torch.testing.assert_close(logits, expected, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("most", "widest"), [(1 << 20, (8, 2048)), (1024, (8, 128)), (256, (2, 128))]
)
def test_what_is_recorded_ahead_is_what_short_requests_need(
    lm: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, most: int, widest: tuple[int, int]
) -> None:
    made: list[tuple[int, ...]] = []

    class CountedRecording(Recording[object]):
        def __init__(self, work: object, *given: torch.Tensor, pool: object) -> None:
            made.append(tuple(given[0].shape))
            super().__init__(work, *given, pool=pool)  # type: ignore[arg-type]

    monkeypatch.setattr("server.engine.batch.Recording", CountedRecording)
    batch = Batch(lm, recorded=True, most_positions=most)
    batch.record(rows=5)
    assert batch._cache is not None
    assert batch._cache.layers[-1].room == widest
    made.clear()

    batch.join([prompt(5, 1)])
    batch.join([prompt(75, 2)])
    logits = batch.step([forced(1)[0], forced(2)[0]])
    expected = torch.stack([alone(lm, 5, 1, 1)[-1], alone(lm, 75, 2, 1)[-1]])
    torch.testing.assert_close(logits, expected, atol=2e-4, rtol=1e-3)
    batch.keep([])
    torch.testing.assert_close(
        batch.join([prompt(90, 3)]), alone(lm, 90, 3, 0), atol=2e-4, rtol=1e-3
    )
    assert made == []
