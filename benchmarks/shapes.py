"""Speed and memory of reading memories at the shapes of a large LLM; random weights suffice.

    python -m benchmarks.shapes --weights bf16 nf4 --slots 16 64 --out cells.jsonl

A batch of requests comes in at once and goes through the service's own batch: prefilled in groups
as its scheduler makes them, then decoded together, recorded as CUDA graphs or (`--eager`) not. K
passages of L tokens are read as text (K * L positions) and as memories of m slots (K * m, or
`--read` of the K, as a score margin leaves them out). A second table times one forward alone,
replayed as a graph: what is left without waiting for launches.

bf16 or NF4 (bitsandbytes). `--memory-gib 22` lets torch have no more than an L4 can give it.
`--shape tiny` is the dry run on a CPU.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import itertools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from benchmarks.command import say
from memory_model.base import chosen_device
from server.engine.batch import Batch
from server.engine.scheduler import prefill_positions

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
REPEATS = 5
ENOUGH_S = 1.0
"""A context is not measured again once it has taken so long."""


@dataclasses.dataclass(frozen=True, slots=True)
class Served:
    """What a batch of requests took. Times in milliseconds, medians after a warm-up."""

    positions: int  # of one prompt
    prefill_ms: float  # of all prompts
    decode_ms: float  # of a step of all rows
    peak_gib: float

    def requests_per_second(self, batch: int, new_tokens: int) -> float:
        return batch / (self.prefill_ms + (new_tokens - 1) * self.decode_ms) * 1000


@dataclasses.dataclass(frozen=True, slots=True)
class Cell:
    """One row of the table; None where it did not fit."""

    weights: str
    batch: int
    memories: int  # K
    read: int  # of them; of the text all
    slots: int  # m
    memory: Served | None
    text: Served | None


@dataclasses.dataclass(frozen=True, slots=True)
class Forward:
    """One prompt's forward alone, in milliseconds."""

    weights: str
    memories: int  # K
    read: int  # of them; of the text all
    slots: int  # m
    memory_ms: float
    text_ms: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="llama-3.1-8b")
    parser.add_argument("--weights", choices=["bf16", "nf4"], nargs="+", default=["bf16"])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--memories", type=int, nargs="+", default=[1, 5, 20, 50])
    parser.add_argument("--read", type=int, nargs="+", help="of each K's memories; default all")
    parser.add_argument("--slots", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--passage-tokens", type=int, default=150)
    parser.add_argument("--decode-steps", type=int, default=16)
    parser.add_argument(
        "--most-positions", type=int, default=200_000, help="of a batch's text; more are left out"
    )
    parser.add_argument("--memory-gib", type=float, help="that torch may have; default all")
    parser.add_argument("--eager", action="store_true", help="record no CUDA graphs")
    parser.add_argument("--out", type=Path, help="write the cells as JSON Lines")
    arguments = parser.parse_args()
    device = torch.device(chosen_device("auto"))
    for weights in arguments.weights:
        lm = build(arguments.shape, weights, device)
        if arguments.memory_gib and device.type == "cuda":
            whole = torch.cuda.get_device_properties(device).total_memory
            torch.cuda.set_per_process_memory_fraction(arguments.memory_gib * 2**30 / whole)
        table(lm, weights, arguments)
        del lm
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def table(lm: Any, weights: str, arguments: argparse.Namespace) -> None:
    """Measure and tell everything of one LLM."""

    def keep(measured: Cell | Forward) -> None:
        if arguments.out:
            with arguments.out.open("a") as file:
                file.write(json.dumps(dataclasses.asdict(measured)) + "\n")

    serve(Batch(lm), lm, 1, QUESTION_POSITIONS, 1)  # kernels are chosen and loaded
    say(
        "| weights | batch | K | read | m | positions | prefill ms | decode ms/step | requests/s "
        "| GiB |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
    )
    for batch in arguments.batches:
        for memories in arguments.memories:
            if batch * positions(memories, arguments.passage_tokens) > arguments.most_positions:
                continue
            for cell in measure(lm, arguments, weights, batch, memories):
                say(describe(cell, arguments.decode_steps))
                keep(cell)
    say("\n| weights | K | read | m | one forward, memory / text ms |\n|---|--:|--:|--:|--:|")
    for memories in arguments.memories:
        text = forward_ms(lm, positions(memories, arguments.passage_tokens))
        for read, slots in ways_to_read(memories, arguments):
            memory = forward_ms(lm, positions(read, slots))
            told = f"{memory:.2f} / {text:.2f} ({text / memory:.2f})"
            say(f"| {weights} | {memories} | {read} | {slots} | {told} |")
            keep(Forward(weights, memories, read, slots, memory, text))


def ways_to_read(memories: int, arguments: argparse.Namespace) -> list[tuple[int, int]]:
    """(memories read, m) of K."""
    read = sorted({min(number, memories) for number in arguments.read or [memories]})
    return list(itertools.product(read, arguments.slots))


def positions(passages: int, each: int) -> int:
    """Of a prompt with so many passages."""
    return passages * each + QUESTION_POSITIONS


def build(shape: str, weights: str, device: torch.device) -> Any:
    """A random LLM of the shape, on the device."""
    config = LlamaConfig(**SHAPES[shape], max_position_embeddings=131072, rope_theta=5e5)
    with torch.device(device):
        torch.set_default_dtype(torch.bfloat16)
        lm = LlamaForCausalLM(config)
        torch.set_default_dtype(torch.float32)
    if weights == "nf4":
        quantise(lm.model, device)
    return lm.eval().requires_grad_(False)


def quantise(model: nn.Module, device: torch.device) -> None:
    """Every linear layer in NF4 with double quantisation, as ``load_base`` loads it."""
    import bitsandbytes

    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if not isinstance(layer, nn.Linear):
                continue
            quantised = bitsandbytes.nn.Linear4bit(
                layer.in_features,
                layer.out_features,
                bias=False,
                compute_dtype=torch.bfloat16,
                quant_type="nf4",
                device="meta",
            )
            quantised.weight = bitsandbytes.nn.Params4bit(
                layer.weight.data, requires_grad=False, quant_type="nf4", module=quantised
            )
            setattr(parent, name, quantised.to(device))


def measure(
    lm: Any, arguments: argparse.Namespace, weights: str, batch: int, memories: int
) -> list[Cell]:
    """Text once, memories in each way."""

    def served(passages: int, each: int) -> Served | None:
        length = positions(passages, each)
        try:
            return repeated(lm, batch, length, arguments.decode_steps, eager=arguments.eager)
        except torch.OutOfMemoryError:
            gc.collect()
            torch.cuda.empty_cache()
            return None

    text = served(memories, arguments.passage_tokens)
    return [
        Cell(weights, batch, memories, read, slots, served(read, slots), text)
        for read, slots in ways_to_read(memories, arguments)
    ]


def repeated(lm: Any, rows: int, length: int, steps: int, *, eager: bool) -> Served:
    """Raises: torch.OutOfMemoryError."""
    device = lm.device
    batch = Batch(lm, recorded=not eager)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    serve(batch, lm, rows, length, steps)
    times: list[tuple[float, float]] = []
    while not times or (len(times) < REPEATS and time.perf_counter() - started < ENOUGH_S):
        times.append(serve(batch, lm, rows, length, steps))
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    prefills, decodes = zip(*times, strict=True)
    return Served(length, statistics.median(prefills), statistics.median(decodes), peak / 2**30)


@torch.inference_mode()
def serve(batch: Batch, lm: Any, rows: int, length: int, steps: int) -> tuple[float, float]:
    """Milliseconds to prefill so many prompts, and of a step that decodes them."""
    prompt = random_prompt(lm, length)
    group = max(1, prefill_positions(lm.device) // length)

    def prefill() -> None:
        for start in range(0, rows, group):
            batch.join([prompt] * min(group, rows - start)).argmax(-1).tolist()

    def decode() -> None:
        for _ in range(steps):
            batch.step([0] * rows).argmax(-1).tolist()

    prefill_ms = timed(prefill, lm.device)
    batch.step([0] * rows)  # recorded here, if at all
    decode_ms = timed(decode, lm.device) / steps
    batch.keep([])
    return prefill_ms, decode_ms


@torch.inference_mode()
def forward_ms(lm: Any, length: int) -> float:
    """Median milliseconds of one prompt's forward; on CUDA replayed as a graph."""
    prompt = random_prompt(lm, length)[None]  # (1, T, h)

    def forward() -> None:
        # a cache, though nothing reads it: without one transformers looks for packed sequences
        lm(inputs_embeds=prompt, past_key_values=DynamicCache(), use_cache=True, logits_to_keep=1)

    work = forward
    if lm.device.type == "cuda":
        forward()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            forward()
        work = graph.replay
    return statistics.median(timed(work, lm.device) for _ in range(REPEATS))


def random_prompt(lm: Any, length: int) -> torch.Tensor:
    """(T, h)"""
    shape = (length, lm.config.hidden_size)
    return torch.randn(shape, device=lm.device, dtype=torch.bfloat16) * 0.02


def timed(work: Callable[[], None], device: torch.device) -> float:
    """Milliseconds until the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - started)


def describe(cell: Cell, new_tokens: int) -> str:
    """Memory / text, and by how much memory wins."""

    def pair(value: Callable[[Served], float], digits: int, *, more_is_better: bool = False) -> str:
        sides = [value(side) if side else None for side in (cell.memory, cell.text)]
        told = " / ".join(
            "does not fit" if side is None else f"{side:.{digits}f}" for side in sides
        )
        memory, text = sides
        if memory is None or text is None:
            return told
        return f"{told} ({memory / text if more_is_better else text / memory:.2f})"

    throughput = pair(
        lambda side: side.requests_per_second(cell.batch, new_tokens), 1, more_is_better=True
    )
    columns = [
        *map(str, (cell.weights, cell.batch, cell.memories, cell.read, cell.slots)),
        pair(lambda side: side.positions, 0),
        pair(lambda side: side.prefill_ms, 1),
        pair(lambda side: side.decode_ms, 1),
        throughput,
        pair(lambda side: side.peak_gib, 1) if cell.memory and cell.memory.peak_gib else "",
    ]
    return f"| {' | '.join(columns)} |"


if __name__ == "__main__":
    main()
