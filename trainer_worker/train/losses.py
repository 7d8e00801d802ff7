"""What a step minimises, from sampled rows.

Symbols: B = rows, K = passages of a row, N = answer tokens, V = vocabulary, d = code dimension.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from trainer_worker.train.dataset import Row, TrainingSet
from trainer_worker.train.networks import Networks
from trainer_worker.train.packing import Block, pack, packed_logits


def question_blocks(data: TrainingSet, row: Row) -> list[Block]:
    """The questions of a row with their answers; absent ones get the refusal."""
    asked = [
        (data.questions[number], data.questions[number].answer_ids) for number in row.questions
    ]
    asked += [(data.questions[number], data.absent_answer_ids) for number in row.absent]
    return [
        Block((*question.prompt_ids, *answer), len(question.prompt_ids))
        for question, answer in asked
    ]


def text_contexts(networks: Networks, data: TrainingSet, rows: Sequence[Row]) -> list[torch.Tensor]:
    """Passages as text. Returns: B of (C_i, h)."""
    reader = networks.reader
    contexts = []
    for row in rows:
        ids = list(reader.prefix_tokens)
        for number, passage in enumerate(row.passages):
            ids += [*(reader.separator_tokens if number else []), *data.passages[passage].token_ids]
        contexts.append(reader.embed(ids))
    return contexts


def memory_contexts(
    networks: Networks, rows: Sequence[Row], codes: dict[int, torch.Tensor]
) -> list[torch.Tensor]:
    """Passages as memories. Returns: B of (C_i, h)."""
    return [
        networks.reader.memory_context([codes[passage] for passage in row.passages]) for row in rows
    ]


def answer_logits(
    networks: Networks, contexts: Sequence[torch.Tensor], blocks: Sequence[Sequence[Block]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (N, V) of the predicted tokens and the tokens (N,)."""
    lm = networks.base.lm
    packed = pack(lm.get_input_embeddings(), contexts, blocks)
    return packed_logits(lm, packed), packed.targets


def teacher_divergence(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """KL(teacher || student), mean over tokens. (N, V), (N, V) -> ()"""
    return functional.kl_div(
        student.log_softmax(dim=-1),
        teacher.log_softmax(dim=-1),
        log_target=True,
        reduction="batchmean",
    )


def reconstruction_blocks(data: TrainingSet, rows: Sequence[Row]) -> list[Block]:
    """One block a row of K = 1: the passage itself, said right after its memory."""
    return [Block(data.passages[row.passages[0]].token_ids, 0) for row in rows]
