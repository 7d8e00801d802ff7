"""The LLM without a server: prompts in batches, answers and likelihoods out.

For questions about a bundle that no HTTP request can ask (other code formats, wrong memories).
Symbols: B = prompts, T = their positions, h = hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from memory_model.bundle import READ_ADAPTER, Bundle, load_bundle
from memory_model.likelihood import nats_per_token, target_logits
from memory_model.packed_llama import pack_model
from memory_model.passages import PassageSplitter
from memory_model.reader import Reader
from memory_model.runtime import open_base
from memory_store.records import CodeFormat
from paramem.settings import load_settings

BATCH = 16
NEW_TOKENS = 24


class OfflineModel:
    """A bundle with one of its readers, and what it takes to ask it."""

    def __init__(self, directory: Path, model: str, reader: str = READ_ADAPTER) -> None:
        settings = load_settings()
        base = open_base(settings, model)
        self.bundle: Bundle = load_bundle(directory, base, reader=reader)
        self.reader = Reader(base, self.bundle.expander, self.bundle.config.template)
        self.splitter = PassageSplitter(base.tokenize, settings.passage_tokens)
        self._lm = self.bundle.read_lm
        self._tokenizer = base.tokenizer
        self._may_round_weights = settings.may_round_weights

    @property
    def code_formats(self) -> list[CodeFormat]:
        """Those that the bundle can store: rq takes a quantiser."""
        can = self.bundle.quantiser is not None
        return [each for each in CodeFormat if can or each is not CodeFormat.RQ]

    @property
    def selection(self) -> str:
        """What a query gets that names none."""
        return self.bundle.selections[0]

    @torch.inference_mode()
    def compress(
        self, passages: Sequence[Sequence[int]], slots: int | None = None
    ) -> list[torch.Tensor]:
        """Codes of each passage (m, d), in batches of like length."""
        codes: dict[int, torch.Tensor] = {}
        for numbers in batches([len(passage) for passage in passages]):
            together = self.bundle.compressor.compress([passages[n] for n in numbers], slots)
            codes |= dict(zip(numbers, together, strict=True))
        return [codes[number] for number in range(len(passages))]

    def pack(self) -> None:
        """Answer as a server does, whose LLM keeps its weights for speed. Nothing can be learnt
        through it afterwards."""
        pack_model(self._lm, may_round=self._may_round_weights)

    @torch.inference_mode()
    def answer(self, prompts: Sequence[torch.Tensor]) -> list[str]:
        """Greedy answers to B prompts of (T_i, h)."""
        answers: dict[int, str] = {}
        stop = self._tokenizer.eos_token_id
        for numbers in batches([len(prompt) for prompt in prompts]):
            some = [prompts[n] for n in numbers]
            longest = max(len(prompt) for prompt in some)
            inputs = some[0].new_zeros(len(some), longest, some[0].shape[-1])  # (b, T, h)
            mask = torch.zeros(len(some), longest, dtype=torch.long, device=inputs.device)
            for row, prompt in enumerate(some):  # padded on the left
                inputs[row, longest - len(prompt) :] = prompt
                mask[row, longest - len(prompt) :] = 1
            generated = self._lm.generate(
                inputs_embeds=inputs,
                attention_mask=mask,
                do_sample=False,
                max_new_tokens=NEW_TOKENS,
                pad_token_id=stop,
            )
            texts = self._tokenizer.batch_decode(generated, skip_special_tokens=True)
            answers |= dict(zip(numbers, (text.strip() for text in texts), strict=True))
        return [answers[number] for number in range(len(prompts))]

    @torch.inference_mode()
    def nats(
        self, prompts: Sequence[torch.Tensor], targets: Sequence[Sequence[int]]
    ) -> list[float]:
        """Nats per token of each target after its prompt."""
        nats: dict[int, float] = {}
        for numbers in batches([len(p) + len(t) for p, t in zip(prompts, targets, strict=True)]):
            some = [targets[n] for n in numbers]
            logits = target_logits(self._lm, [prompts[n] for n in numbers], some)
            nats |= dict(zip(numbers, nats_per_token(logits, some).tolist(), strict=True))
        return [nats[number] for number in range(len(prompts))]

    def memory_prompt(self, query: str | None, *memories: torch.Tensor) -> torch.Tensor:
        """(T, h); ``memories``: K of (m_i, d)."""
        return self.reader.memory_prompt(query, memories)

    def closed_prompt(self, query: str) -> torch.Tensor:
        """(T, h)"""
        return self.reader.text_prompt(query, [])


def batches(lengths: Sequence[int], most: int = BATCH) -> list[list[int]]:
    """Row numbers in batches of like length, at most so many together."""
    order = sorted(range(len(lengths)), key=lambda number: lengths[number])
    return [order[start : start + most] for start in range(0, len(order), most)]
