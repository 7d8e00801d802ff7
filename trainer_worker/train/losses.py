"""What there is to read and to say in sampled rows, and how far one reader is from another.

Symbols: B = rows, K = passages of a row, N = answer tokens, M = tokens of questions and answers,
V = vocabulary, h = hidden size, d = code dimension.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from memory_model.coarsening import coarsen
from trainer_worker.packing import Block, PackedOutput, pack, read_packed
from trainer_worker.train.dataset import Row, TrainingSet
from trainer_worker.train.networks import Networks


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
    networks: Networks,
    rows: Sequence[Row],
    codes: dict[int, torch.Tensor],
    weights: torch.Tensor | None = None,
    coarse_slots: int | None = None,
) -> list[torch.Tensor]:
    """Passages as memories.

    Args:
        codes: (m_i, d) of each passage.
        weights: (B, K) that the memories are multiplied by.
        coarse_slots: of all memories but the first; None = all of theirs.

    Returns: B of (C_i, h).
    """
    contexts = []
    for number, row in enumerate(rows):
        memories = coarsen([codes[passage] for passage in row.passages], coarse_slots)
        if weights is not None:
            memories = [code * w for code, w in zip(memories, weights[number], strict=True)]
        contexts.append(networks.reader.memory_context(memories))
    return contexts


def read_blocks(
    networks: Networks,
    contexts: Sequence[torch.Tensor],
    blocks: Sequence[Sequence[Block]],
    *,
    with_states: bool = False,
) -> tuple[PackedOutput, torch.Tensor]:
    """Let the active reader read. Returns: what it made of them, and the tokens to predict (N,)."""
    lm = networks.base.lm
    packed = pack(lm.get_input_embeddings(), contexts, blocks)
    return read_packed(lm, packed, with_states=with_states), packed.targets


def teacher_divergence(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """KL(teacher || student), mean over tokens. (N, V), (N, V) -> ()"""
    return functional.kl_div(
        student.log_softmax(dim=-1),
        teacher.log_softmax(dim=-1),
        log_target=True,
        reduction="batchmean",
    )


def imitation(student: PackedOutput, teacher: PackedOutput) -> torch.Tensor:
    """How far the student's states are from the teacher's, mean over layers. ()

    A question and its answer are the same tokens behind memories and behind text, so their states
    can be compared one by one (layer-wise distillation: Sun et al. 2019, arXiv 1908.09355). Squares
    relative to the teacher's variance in each dimension: a few dimensions of huge variance would
    decide otherwise.
    """
    distances = [
        ((mine.float() - theirs.float()).square() / theirs.float().var(dim=0)).mean()
        for mine, theirs in zip(student.states, teacher.states, strict=True)
    ]
    return torch.stack(distances).mean()


def reconstruction_blocks(data: TrainingSet, rows: Sequence[Row]) -> list[list[Block]]:
    """One block a row of K = 1: the passage itself, said right after its memory."""
    return [[Block(data.passages[row.passages[0]].token_ids, 0)] for row in rows]


def continuation_blocks(
    networks: Networks, data: TrainingSet, rows: Sequence[Row]
) -> list[list[Block]]:
    """One block a row of K = 1: the next passage of the document, set apart as passages are; none
    where the passage is its document's last."""
    separator = networks.reader.separator_tokens
    following = [data.passages[row.passages[0]].next for row in rows]
    return [
        []
        if number is None
        else [Block((*separator, *data.passages[number].token_ids), len(separator))]
        for number in following
    ]
