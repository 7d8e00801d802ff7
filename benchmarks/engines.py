"""The engines side by side, in process: the same prompts, greedy, one engine after the other.

Each prompt holds K = 5 memories of demo documents. An answer (``ask``) and a recitation
(``recite``: no question, so that it seldom ends early) of each; the first engine's texts are what
the others' are compared with. A rate counts generated tokens over the wall time of all requests.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from clients.demo import demo_documents, demo_questions
from memory_store.records import FloatArray
from paramem.settings import EngineKind, Settings, load_settings
from server.engine.factory import build_generator
from server.engine.generator import GenerationRequest, Generator

TOP_K = 5


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one request."""

    text: str
    tokens: int
    positions: int
    ttft_ms: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engines", nargs="+", type=EngineKind, default=["transformers", "vllm"])
    parser.add_argument("--concurrency", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--new-tokens", type=int, default=32)
    arguments = parser.parse_args()
    first: list[str] | None = None
    sys.stdout.write(
        "| engine | dtype | start | kind | concurrency | n | positions | TTFT p50 | tokens/s "
        "| same text |\n|---|---|--:|---|--:|--:|--:|--:|--:|--:|\n"
    )
    for kind in arguments.engines:
        settings = load_settings(engine=kind)
        requests = make_requests(settings, arguments.requests, arguments.new_tokens)
        texts = asyncio.run(compare(settings, requests, arguments.concurrency, first))
        first = first or texts


def make_requests(
    settings: Settings, count: int, new_tokens: int
) -> dict[str, list[GenerationRequest]]:
    """``count`` of each kind."""
    memories = make_memories(settings)
    questions = [question.question for question in demo_questions()]
    chosen = [
        [memories[(start + k) % len(memories)] for k in range(TOP_K)] for start in range(count)
    ]
    return {
        "ask": [
            GenerationRequest(questions[i % len(questions)], new_tokens, codes=codes)
            for i, codes in enumerate(chosen)
        ],
        "recite": [GenerationRequest(None, new_tokens, codes=codes) for codes in chosen],
    }


def make_memories(settings: Settings) -> list[FloatArray]:
    """One of each demo document, (m, d)."""
    import torch

    from memory_model.runtime import open_bundle

    bundle = open_bundle(settings.model_copy(update={"device": "cpu"}))
    tokens = [bundle.base.tokenize(document.text)[:160] for document in demo_documents("fast")]
    with torch.inference_mode():
        return [bundle.compressor.compress([each])[0].cpu().numpy() for each in tokens]


async def compare(
    settings: Settings,
    requests: dict[str, list[GenerationRequest]],
    concurrencies: Sequence[int],
    expected: list[str] | None,
) -> list[str]:
    """Print a line for each cell. Returns: the texts at the first concurrency."""
    engine = build_generator(settings)
    began = time.perf_counter()
    await engine.start()
    start_s = time.perf_counter() - began
    try:
        texts: list[str] = []
        for concurrency in concurrencies:
            cell: list[str] = []
            for kind, wishes in requests.items():
                await run(engine, wishes[:concurrency], concurrency)  # warm-up, not counted
                began = time.perf_counter()
                outcomes = await run(engine, wishes, concurrency)
                rate = sum(one.tokens for one in outcomes) / (time.perf_counter() - began)
                known = (expected or texts)[len(cell) :]
                here = [one.text for one in outcomes]
                cell += here
                ttft = statistics.median(one.ttft_ms for one in outcomes)
                same = sum(a == b for a, b in zip(here, known, strict=False)) if known else "–"
                sys.stdout.write(
                    f"| {settings.engine} | {engine.info.dtype} | {start_s:.0f} s | {kind} "
                    f"| {concurrency} | {len(outcomes)} "
                    f"| {max(one.positions for one in outcomes)} | {ttft:.0f} ms | {rate:.1f} "
                    f"| {same} of {len(here)} |\n"
                )
                sys.stdout.flush()
            texts = texts or cell
        return texts
    finally:
        await engine.stop()


async def run(
    engine: Generator, requests: Sequence[GenerationRequest], concurrency: int
) -> list[Outcome]:
    places = asyncio.Semaphore(concurrency)

    async def one(request: GenerationRequest) -> Outcome:
        async with places:
            return await ask(engine, request)

    return list(await asyncio.gather(*(one(request) for request in requests)))


async def ask(engine: Generator, request: GenerationRequest) -> Outcome:
    began = time.perf_counter()
    first = 0.0
    text = ""
    async for chunk in engine.generate(request):
        first = first or time.perf_counter() - began
        text += chunk.text
    return Outcome(text, chunk.completion_tokens, chunk.prompt_tokens, 1000 * first)


if __name__ == "__main__":
    main()
