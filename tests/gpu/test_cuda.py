"""What only a CUDA device can show. Each path has a CPU test on a tiny random model elsewhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from memory_model.base import load_base
from memory_model.bundle import load_bundle
from memory_model.calibration import create_untrained_bundle
from memory_model.passages import Passage
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
