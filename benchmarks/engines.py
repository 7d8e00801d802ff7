"""The engines side by side, in process: the same prompts, greedy, one engine after the other.

Each prompt holds K = 5 memories of demo documents. ``ask`` puts a question to them, ``recite``
puts none (and seldom ends early); no two prompts begin with the same memories. ``again`` repeats
``ask``, which is what a prefix cache is for. Texts are compared with those of the first engine; a
rate counts generated tokens over the wall time of all requests.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
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
    parser.add_argument("--ignore-eos", action="store_true", help="exactly so many new tokens")
    arguments = parser.parse_args()
    with ThreadPoolExecutor(1) as thread:  # its OpenMP team must not stay beside the engine's
        memories = thread.submit(make_memories, load_settings(engine=arguments.engines[0])).result()
    prompts = Prompts(memories, arguments.new_tokens, arguments.ignore_eos)
    cells = make_cells(prompts, arguments.concurrency, arguments.requests)
    expected: list[list[str]] = []
    sys.stdout.write(
        "| engine | dtype | start | kind | concurrency | n | positions | TTFT p50 | tokens/s "
        "| same text |\n|---|---|--:|---|--:|--:|--:|--:|--:|--:|\n"
    )
    for kind in arguments.engines:
        texts = asyncio.run(measure(load_settings(engine=kind), cells, expected))
        expected = expected or texts


@dataclass(frozen=True, slots=True)
class Cell:
    """A line of the table."""

    kind: str
    concurrency: int
    requests: list[GenerationRequest]


class Prompts:
    """Makes requests, no two of which begin with the same memories."""

    def __init__(self, memories: list[FloatArray], new_tokens: int, ignore_eos: bool) -> None:
        self._memories = memories
        self._new_tokens = new_tokens
        self._ignore_eos = ignore_eos
        self._beginnings = list(itertools.permutations(range(len(memories)), 2))
        random.Random(0).shuffle(self._beginnings)

    def request(self, number: int, query: str | None) -> GenerationRequest:
        """The next one; ``number`` draws its other memories."""
        if not self._beginnings:
            raise SystemExit("no more prompts begin differently: fewer requests or concurrencies")
        first = self._beginnings.pop()
        rest = [each for each in range(len(self._memories)) if each not in first]
        chosen = [*first, *random.Random(number).sample(rest, TOP_K - len(first))]
        codes = [self._memories[each] for each in chosen]
        return GenerationRequest(query, self._new_tokens, codes=codes, ignore_eos=self._ignore_eos)


def make_cells(prompts: Prompts, concurrencies: Sequence[int], count: int) -> list[Cell]:
    """``count`` requests each."""
    questions = [question.question for question in demo_questions()]
    cells = []
    for concurrency in concurrencies:
        ask = [prompts.request(i, questions[i % len(questions)]) for i in range(count)]
        recite = [prompts.request(i, None) for i in range(count)]
        kinds = {"ask": ask, "recite": recite, "again": ask}
        cells += [Cell(kind, concurrency, requests) for kind, requests in kinds.items()]
    return cells


def make_memories(settings: Settings) -> list[FloatArray]:
    """One of each demo document, (m, d)."""
    import torch

    from memory_model.runtime import open_bundle

    bundle = open_bundle(settings.model_copy(update={"device": "cpu"}))
    tokens = [bundle.base.tokenize(document.text)[:160] for document in demo_documents("fast")]
    with torch.inference_mode():
        return [bundle.compressor.compress([each])[0].cpu().numpy() for each in tokens]


async def measure(
    settings: Settings, cells: Sequence[Cell], expected: Sequence[Sequence[str]]
) -> list[list[str]]:
    """Print a line for each cell. Returns: the texts of each."""
    engine = build_generator(settings)
    began = time.perf_counter()
    await engine.start()
    start_s = time.perf_counter() - began
    try:
        await ask(engine, GenerationRequest("warm-up, not counted", 4))
        texts: list[list[str]] = []
        for cell in cells:
            began = time.perf_counter()
            outcomes = await run(engine, cell)
            rate = sum(one.tokens for one in outcomes) / (time.perf_counter() - began)
            texts.append([one.text for one in outcomes])
            known = expected[len(texts) - 1] if expected else texts[-1]
            same = sum(a == b for a, b in zip(texts[-1], known, strict=True))
            ttft = statistics.median(one.ttft_ms for one in outcomes)
            sys.stdout.write(
                f"| {settings.engine} | {engine.info.dtype} | {start_s:.0f} s | {cell.kind} "
                f"| {cell.concurrency} | {len(outcomes)} "
                f"| {max(one.positions for one in outcomes)} | {ttft:.0f} ms | {rate:.1f} "
                f"| {same} of {len(known)} |\n"
            )
            sys.stdout.flush()
        return texts
    finally:
        await engine.stop()


async def run(engine: Generator, cell: Cell) -> list[Outcome]:
    places = asyncio.Semaphore(cell.concurrency)

    async def one(request: GenerationRequest) -> Outcome:
        async with places:
            return await ask(engine, request)

    return list(await asyncio.gather(*(one(request) for request in cell.requests)))


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
