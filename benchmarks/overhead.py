"""What the service adds to the bare LLM: time to first token against one forward pass.

    python -m benchmarks.overhead --append

One server for each code format. Every question is asked alone, streamed, from K = 5 memories; right
before or after, this process runs the same LLM, its weights laid out as the server's, once over as
many positions as the answer's prompt had. The two never compute at the same time.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.contexts import (
    NEW_TOKENS,
    TOP_K,
    ask,
    long_documents,
    median,
    median_of_ratios,
)
from benchmarks.results import RESULTS, publish
from clients import Client
from clients.demo import demo_questions, demo_server
from memory_model.packed_llama import pack_model
from memory_model.runtime import open_base
from paramem.settings import load_settings

FORMATS = ("bf16", "int4", "rq")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=4, help="times each question is asked")
    parser.add_argument("--formats", nargs="+", default=list(FORMATS), choices=FORMATS)
    parser.add_argument("--append", action="store_true", help=f"append to {RESULTS.name}")
    arguments = parser.parse_args()
    settings = load_settings()
    base = open_base(settings, settings.model)
    pack_model(base.lm, may_round=settings.may_round_weights)
    lines = [
        f"\n## Overhead, {time.strftime('%Y-%m-%d')}\n",
        f"{base.name}, {base.dtype} on {base.device} ({os.cpu_count()} cores, "
        f"{torch.get_num_threads()} threads), K = {TOP_K}, {NEW_TOKENS} new tokens at most, one "
        "request at a time; medians; the ratio is of pairs, with its 95 % bootstrap interval. "
        "Command: `python -m benchmarks.overhead`.\n",
        "| codes | bytes a passage | positions | n | TTFT ms | bare forward ms | TTFT / forward |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for code_format in arguments.formats:
        os.environ["PARAMEM_CODE_FORMAT"] = code_format
        with (
            tempfile.TemporaryDirectory() as home,
            demo_server(Path(home), lambda _what: None) as url,
            Client(url) as client,
        ):
            lines.append(f"| {code_format} | {measure(client, base.lm, arguments.rounds)} |")
    publish(lines, append=arguments.append)


def measure(client: Client, lm: Any, rounds: int) -> str:
    """The cells of a format's row."""
    for line in client.write_many(long_documents()):
        if line.job is not None:
            client.wait(line.job.job_id)
    questions = [question.question for question in demo_questions()]
    positions = ask(client, questions[0], "memory").positions  # a warm-up, not counted
    forward_ms(lm, positions)
    order = random.Random(0)
    ttft: list[float] = []
    forward: list[float] = []
    for question in questions * rounds:
        if order.random() < 0.5:
            forward.append(forward_ms(lm, positions))
            ttft.append(ask(client, question, "memory").ttft)
        else:
            ttft.append(ask(client, question, "memory").ttft)
            forward.append(forward_ms(lm, positions))
    size = client.memory("passage-0").passages[0].bytes
    return (
        f"{size:,} | {positions} | {len(ttft)} | {median(ttft):.0f} | {median(forward):.0f} "
        f"| {median_of_ratios(ttft, forward)}"
    )


@torch.inference_mode()
def forward_ms(lm: Any, positions: int) -> float:
    """One prefill of random embeddings, with the cache that decoding would go on from."""
    embeds = torch.randn(1, positions, lm.config.hidden_size, device=lm.device).to(lm.dtype)
    started = time.perf_counter()
    lm(inputs_embeds=embeds, use_cache=True, logits_to_keep=1)
    if lm.device.type == "cuda":
        torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - started)


if __name__ == "__main__":
    main()
