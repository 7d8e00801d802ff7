"""What the LLM recites from the memories alone: the plainest look at what they hold."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from itertools import islice

from memory_store.records import Document, FloatArray, Memory
from server.engine.generator import GenerationRequest
from server.read_path import begin_generation
from server.schemas.results import ReconstructedPassage, ReconstructionResult
from server.services import Services

SLACK_TOKENS = 8  # beyond the passage's length: a recital that overruns shows


async def reconstruct(
    services: Services, document: Document, max_new_tokens: int | None
) -> ReconstructionResult:
    """Every passage of the document, as many at a time as the engine batches."""
    passages: list[ReconstructedPassage] = []
    memories = iter(document.memories)
    while batch := list(islice(memories, services.settings.max_batch_size)):
        codes = await services.read(services.store.load_codes, batch)
        tasks = [
            asyncio.create_task(_recite(services, memory, code, max_new_tokens))
            for memory, code in zip(batch, codes, strict=True)
        ]
        try:
            passages += await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
    return ReconstructionResult(document_id=document.document_id, passages=passages)


async def _recite(
    services: Services, memory: Memory, code: FloatArray, max_new_tokens: int | None
) -> ReconstructedPassage:
    """``code``: (m, d)"""
    wanted = max_new_tokens or memory.num_tokens + SLACK_TOKENS
    request = GenerationRequest(
        query=None,
        max_new_tokens=min(wanted, services.settings.max_new_tokens),
        codes=[code],
    )
    async with AsyncExitStack() as scope:
        chunk, rest = await begin_generation(services, request, scope)
        text = chunk.text
        while chunk.finish_reason is None:
            chunk = await anext(rest)
            text += chunk.text
    return ReconstructedPassage(
        passage=memory.passage,
        text=text,
        num_tokens=chunk.completion_tokens,
        finish_reason=chunk.finish_reason,
    )
