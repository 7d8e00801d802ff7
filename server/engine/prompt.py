"""The prompt of a request, or why there is none. Symbols: T = positions, h = hidden size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
import torch

from server.engine.generator import EngineError, GenerationRequest, PromptTooLongError

if TYPE_CHECKING:
    from memory_model.runtime import ReadingModel

FAILED = "the engine failed on this request; the server's log says why"

log = structlog.get_logger(__name__)


def make_prompt(
    model: ReadingModel, request: GenerationRequest, context_tokens: int
) -> torch.Tensor:
    """Returns: (T, h).

    Raises:
        PromptTooLongError: it leaves no room for the answer in ``context_tokens``.
        EngineError: it cannot be made; the reason goes to the log, not to the client.
    """
    try:
        prompt = model.prompt_embeds(request.query, request.codes, request.texts)
    except Exception as error:
        log.exception("prompt_failed")
        raise EngineError(FAILED) from error
    if len(prompt) + request.max_new_tokens > context_tokens:
        raise PromptTooLongError(
            f"the prompt takes {len(prompt)} positions and max_new_tokens is "
            f"{request.max_new_tokens}, but the model's context holds {context_tokens}: lower "
            "top_k or max_new_tokens, or shorten the query"
        )
    return prompt
