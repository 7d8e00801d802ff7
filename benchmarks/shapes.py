"""Speed and memory of reading memories at the shapes of a large LLM; random weights suffice.

For K passages of L tokens it times the prefill of the memory prompt (K * m positions) against the
text prompt (K * L positions), then decoding, at several batch sizes, and reports peak memory.
Runs bf16 or NF4 (bitsandbytes, CUDA only). `--shape tiny` is the dry run on a CPU.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
)

SHAPES: dict[str, dict[str, int]] = {
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 512,
    },
    "llama-3.1-8b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    },
}
QUESTION_POSITIONS = 32  # template and question around the context
WARM_UPS, REPEATS = 2, 5


@dataclasses.dataclass(frozen=True, slots=True)
class Cell:
    """One measured point. Times in milliseconds, medians of ``REPEATS``."""

    weights: str
    batch: int
    memories: int  # K
    positions_memory: int
    positions_text: int
    prefill_memory_ms: float
    prefill_text_ms: float
    decode_memory_ms_per_step: float
    decode_text_ms_per_step: float
    peak_gib: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="llama-3.1-8b")
    parser.add_argument("--weights", choices=["bf16", "nf4"], default="bf16")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--memories", type=int, nargs="+", default=[1, 5, 20])
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--passage-tokens", type=int, default=150)
    parser.add_argument("--decode-steps", type=int, default=16)
    parser.add_argument("--out", type=Path, help="write the cells as JSON Lines")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    lm = build(arguments.shape, arguments.weights, device)
    cells = []
    for batch in arguments.batches:
        for memories in arguments.memories:
            cell = measure(lm, arguments, batch, memories, device)
            if cell is None:
                sys.stdout.write(f"batch {batch}, K {memories}: out of memory\n")
                continue
            cells.append(cell)
            sys.stdout.write(f"{describe(cell)}\n")
            sys.stdout.flush()
    if arguments.out:
        lines = [json.dumps(dataclasses.asdict(cell)) for cell in cells]
        arguments.out.write_text("\n".join(lines) + "\n")


def build(shape: str, weights: str, device: torch.device) -> Any:
    """A random LLM of the shape, on the device."""
    config = LlamaConfig(**SHAPES[shape], max_position_embeddings=131072, rope_theta=5e5)
    with torch.device(device):
        torch.set_default_dtype(torch.bfloat16)
        lm = LlamaForCausalLM(config)
        torch.set_default_dtype(torch.float32)
    if weights == "bf16":
        return lm.eval().requires_grad_(False)
    with tempfile.TemporaryDirectory() as directory:
        lm.save_pretrained(directory)
        del lm
        gc.collect()
        torch.cuda.empty_cache()
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
        return AutoModelForCausalLM.from_pretrained(
            directory, quantization_config=quantization, device_map={"": device}
        ).eval()


def measure(
    lm: Any, arguments: argparse.Namespace, batch: int, memories: int, device: torch.device
) -> Cell | None:
    """None when the cell does not fit."""
    positions_memory = memories * arguments.slots + QUESTION_POSITIONS
    positions_text = memories * arguments.passage_tokens + QUESTION_POSITIONS
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    try:
        memory = run(lm, batch, positions_memory, arguments.decode_steps, device)
        text = run(lm, batch, positions_text, arguments.decode_steps, device)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return None
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    return Cell(
        weights=arguments.weights,
        batch=batch,
        memories=memories,
        positions_memory=positions_memory,
        positions_text=positions_text,
        prefill_memory_ms=memory[0],
        prefill_text_ms=text[0],
        decode_memory_ms_per_step=memory[1],
        decode_text_ms_per_step=text[1],
        peak_gib=peak / 2**30,
    )


@torch.inference_mode()
def run(
    lm: Any, batch: int, positions: int, steps: int, device: torch.device
) -> tuple[float, float]:
    """Median prefill and decode-step times of a batch of prompts, in milliseconds."""
    hidden = lm.config.hidden_size
    prompt = torch.randn(batch, positions, hidden, device=device, dtype=torch.bfloat16) * 0.02
    token = torch.zeros(batch, 1, dtype=torch.long, device=device)
    prefills, decodes = [], []
    for repeat in range(WARM_UPS + REPEATS):
        cache = DynamicCache(config=lm.config)

        def prefill(cache: DynamicCache = cache) -> None:
            lm(inputs_embeds=prompt, past_key_values=cache, logits_to_keep=1, use_cache=True)

        prefilled = timed(prefill, device)

        def decode(cache: DynamicCache = cache) -> None:
            for _ in range(steps):
                lm(input_ids=token, past_key_values=cache, use_cache=True)

        decoded = timed(decode, device) / steps
        if repeat >= WARM_UPS:
            prefills.append(prefilled)
            decodes.append(decoded)
    return statistics.median(prefills), statistics.median(decodes)


def timed(work: Callable[[], None], device: torch.device) -> float:
    """Milliseconds until the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - started)


def describe(cell: Cell) -> str:
    return (
        f"{cell.weights} batch {cell.batch:3d} K {cell.memories:2d}: "
        f"prefill memory {cell.prefill_memory_ms:9.2f} ms, text {cell.prefill_text_ms:9.2f} ms "
        f"(x{cell.prefill_text_ms / cell.prefill_memory_ms:.2f}); "
        f"decode {cell.decode_memory_ms_per_step:7.2f} / {cell.decode_text_ms_per_step:7.2f} "
        f"ms/step; peak {cell.peak_gib:.1f} GiB"
    )


if __name__ == "__main__":
    main()
