"""What only a CUDA device can show. Each path has a CPU test on a tiny random model elsewhere."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from baselines.encoder import load_encoder
from memory_model.base import load_base
from memory_model.bundle import load_bundle
from memory_model.calibration import create_untrained_bundle
from memory_model.passages import Passage
from memory_model.recording import Recording, graph_pool
from memory_model.runtime import ReadingModel, open_bundle
from paramem.settings import Settings
from server.engine.batch import Batch
from server.engine.sampling import Draw, next_tokens
from tests.tiny import save_tiny_model
from trainer_worker.fit import Fitter

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_a_memory_is_written_and_refined_on_the_gpu(tmp_path: Path, quantization: str) -> None:
    model = save_tiny_model(tmp_path / "model", hidden=128)
    base = load_base(str(model), cache=tmp_path, device="cuda", quantization=quantization)
    create_untrained_bundle(tmp_path / "bundle", base, slots=4, z_dim=32)
    bundle = load_bundle(tmp_path / "bundle", base)
    text = "the cat sat on the mat"
    passages = [Passage(text, 0, len(text), tuple(base.tokenize(text)))]
    with torch.no_grad():
        guess = bundle.compressor.compress([passages[0].token_ids])
    _, [report] = Fitter(bundle, steps=20, learning_rate=0.05).fit(passages, guess)
    assert report.steps > 0
    assert report.nats <= report.nats_first_guess


def test_nf4_fits_gradients_reach_the_codes(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model", hidden=128)
    base = load_base(str(model), cache=tmp_path, device="cuda", quantization="nf4")
    prompt = torch.randn(1, 8, 128, device="cuda", dtype=base.dtype, requires_grad=True)
    base.lm(inputs_embeds=prompt).logits.float().logsumexp(-1).sum().backward()
    assert prompt.grad is not None
    assert prompt.grad.abs().sum() > 0


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("quantization", ["none", "nf4"])
@torch.inference_mode()
def test_recorded_steps_say_what_steps_say(tmp_path: Path, quantization: str, ahead: bool) -> None:
    model = save_tiny_model(tmp_path / "model", hidden=128)
    lm = load_base(str(model), cache=tmp_path, device="cuda", quantization=quantization).lm
    plain, recorded = Batch(lm), Batch(lm, recorded=True)
    random = torch.Generator().manual_seed(0)

    def compare(call: Callable[[Batch], torch.Tensor]) -> None:
        expected = call(plain).float()
        torch.testing.assert_close(
            call(recorded).float(), expected, atol=0.05 * float(expected.abs().max()), rtol=0.05
        )

    def join(*lengths: int) -> None:
        prompts = [torch.randn(length, 128, generator=random) * 0.2 for length in lengths]
        moved = [prompt.to(device="cuda", dtype=lm.dtype) for prompt in prompts]
        compare(lambda batch: batch.join(moved))

    def steps(count: int) -> None:
        for number in range(count):
            token = 5 + number
            compare(lambda batch, token=token: batch.step([token] * len(batch)))  # type: ignore[misc]

    if ahead:  # as a server does; there is room for all then, and nothing grows
        recorded.record(4)
    join(40)  # recorded, as is its step
    steps(3)
    join(20, 70)  # other lanes, the same columns
    steps(70)  # more columns than there were: what was recorded knows other addresses
    for batch in plain, recorded:
        batch.keep([2, 0])
    steps(2)
    for batch in plain, recorded:
        batch.keep([])
    join(33)  # what was recorded before is replayed
    steps(2)
    join(600)
    steps(1)
    assert any(step._graph is not None for step in recorded._steps.values())
    assert any(prefill._graph is not None for prefill in recorded._prefills.values())


def test_recorded_queries_are_selected_for_as_before(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model", hidden=128)
    settings = Settings(home=tmp_path, model=str(model), device="cuda", slots=4, z_dim=32)
    reading = ReadingModel(open_bundle(settings))
    queries = ["the cat", "a", "where did the heron fish at dawn?"]
    plain = reading.embed_queries(queries, "router")
    tokens = reading.query_vectors(queries)
    reading.record_queries(4)
    for _ in range(2):
        recorded = reading.embed_queries(queries, "router")
        np.testing.assert_allclose(recorded, plain, atol=0.05)
        for vectors, expected in zip(reading.query_vectors(queries), tokens, strict=True):
            np.testing.assert_allclose(vectors, expected, atol=0.05)
    assert [each.shape for each in reading.slot_vectors([np.ones((4, 32), np.float32)])] == [
        (4, 32)
    ]


def test_an_old_recording_that_is_garbage_does_not_end_a_capture() -> None:
    given, old = torch.ones(4, device="cuda"), list[Any]()

    def work(tensor: torch.Tensor) -> torch.Tensor:
        if torch.cuda.is_current_stream_capturing():
            old.clear()  # now it is garbage, which only the collector of cycles frees
        made = [[number] for number in range(10_000)]  # it would come by here
        return tensor * len(made)

    recording = Recording(work, given, pool=graph_pool(given.device))
    old.append([recording])
    old[0].append(old[0])
    del recording
    new = Recording(work, given, pool=graph_pool(given.device))
    assert not old
    assert new(given).tolist() == [10_000] * 4


@pytest.mark.model
def test_recorded_queries_get_the_vectors_they_had(tmp_path: Path) -> None:
    encoder = load_encoder(Settings(home=tmp_path, device="cuda"))
    texts = ["Herons fish at dawn.", "A cat."]
    plain = encoder.queries(texts)
    encoder.record_queries(4)
    np.testing.assert_allclose(encoder.queries(texts), plain, atol=0.01)


def test_a_seed_draws_the_same_tokens_as_on_a_cpu() -> None:
    logits = torch.randn(3, 1000)
    here, there = (
        next_tokens(logits.to(device), [Draw(0.8, 1), None, Draw(1.2, 2)])
        for device in ("cpu", "cuda")
    )
    assert here == there


LOSE_DEVICE = """
import torch
from memory_model.device_loss import is_lost
device = torch.device("cuda", torch.cuda.current_device())
row = torch.zeros(4, device=device)
well = is_lost(device)
try:
    row[torch.tensor([5], device=device)].cpu()  # out of bounds: the kernel's assertion fails
except RuntimeError:
    pass
print(well, is_lost(device))
"""


def test_a_failed_kernel_is_the_loss_of_the_device() -> None:
    done = subprocess.run([sys.executable, "-c", LOSE_DEVICE], capture_output=True, check=True)
    assert done.stdout.split() == [b"False", b"True"]
