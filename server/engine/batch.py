"""The running batch: rows of different lengths that one forward pass extends together.

Rows join and leave between steps. Each row sees exactly what it would see alone: left padding is
masked, and positions count real tokens only.
Symbols: B = rows, T = positions of a prompt, S = positions cached, V = vocabulary, h = hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import pad
from transformers import Cache, PreTrainedModel

from server.engine import kv_cache


class Batch:
    """Owns the key/value cache. Not thread-safe; call it under ``torch.inference_mode``.

    After an exception in ``step`` the cache may be half written: discard the batch.
    """

    def __init__(self, lm: PreTrainedModel) -> None:
        self._lm = lm
        self._cache: Cache | None = None
        self._lengths: list[int] = []  # real positions of each row; max = S

    def __len__(self) -> int:
        return len(self._lengths)

    def join(self, prompts: Sequence[torch.Tensor]) -> torch.Tensor:
        """Prefill new rows, each prompt (T_i, h), and append them after the present ones.

        Returns: (N, V) logits of the new rows' next tokens. Raises: whatever the model does; the
        present rows are then as they were.
        """
        lengths = [len(prompt) for prompt in prompts]
        longest = max(lengths)
        embeds = torch.stack(
            [pad(prompt, (0, 0, longest - len(prompt), 0)) for prompt in prompts]
        )  # (N, T, h)
        steps = torch.arange(longest, device=embeds.device)
        padding = longest - torch.tensor(lengths, device=embeds.device)[:, None]  # (N, 1)
        output = self._lm(
            inputs_embeds=embeds,
            attention_mask=self._mask(lengths, longest, embeds.device),
            position_ids=(steps - padding).clamp(min=0),  # (N, T)
            past_key_values=kv_cache.empty(),
            use_cache=True,
            logits_to_keep=1,
        )
        present = [] if self._cache is None else [self._cache]
        self._cache = kv_cache.stacked([*present, output.past_key_values])
        self._lengths = [*self._lengths, *lengths]
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        """Append one token to every row. Returns: (B, V) logits of the next ones."""
        device = self._lm.device
        positions = torch.tensor(self._lengths, device=device)[:, None]  # (B, 1)
        lengths = [length + 1 for length in self._lengths]
        output = self._lm(
            input_ids=torch.tensor(tokens, device=device)[:, None],
            attention_mask=self._mask(lengths, max(lengths), device),
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
        )
        self._lengths = lengths
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def keep(self, rows: Sequence[int]) -> None:
        """Drop every other row, and the padding that only they made necessary."""
        if not rows:
            self._cache = None
            self._lengths = []
            return
        longest = max(self._lengths)
        self._lengths = [self._lengths[row] for row in rows]
        self._cache = kv_cache.selected(self._cache, rows, longest - max(self._lengths))

    def _mask(
        self, lengths: Sequence[int], longest: int, device: torch.device
    ) -> torch.Tensor | None:
        """Returns: (B, S), 1 where there is a real position; None when there is no padding."""
        if min(lengths) == longest:
            return None
        columns = torch.arange(longest, device=device)
        first = longest - torch.tensor(lengths, device=device)[:, None]
        return (columns >= first).long()
