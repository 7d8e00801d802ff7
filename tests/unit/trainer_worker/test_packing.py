"""Packed rows give the numbers of separate rows."""

from __future__ import annotations

import torch

from memory_model.bundle import Bundle
from memory_model.likelihood import target_logits
from trainer_worker.packing import Block, pack, read_packed


def test_packed_questions_get_the_logits_of_separate_rows(tiny_bundle: Bundle) -> None:
    lm = tiny_bundle.base.lm
    embed = lm.get_input_embeddings()
    contexts = [embed(torch.tensor(ids)) for ids in ([5, 6, 7, 8, 9], [11, 12])]  # (C, h)
    blocks = [
        [Block((20, 21, 22, 30, 31), 3), Block((40, 41, 50), 2)],
        [Block((60, 61, 62), 1)],
    ]
    with torch.no_grad():
        packed = read_packed(lm, pack(embed, contexts, blocks)).logits
        prompts, answers = [], []
        for context, asked in zip(contexts, blocks, strict=True):
            for block in asked:
                prompt = torch.tensor(block.token_ids[: block.prompt_length])
                prompts.append(torch.cat([context, embed(prompt)]))
                answers.append(block.token_ids[block.prompt_length :])
        separate = target_logits(lm, prompts, answers)
    torch.testing.assert_close(packed, separate, atol=1e-4, rtol=1e-4)


def test_a_block_without_a_prompt_is_predicted_from_the_context(tiny_bundle: Bundle) -> None:
    lm = tiny_bundle.base.lm
    embed = lm.get_input_embeddings()
    context = embed(torch.tensor([5, 6, 7]))
    with torch.no_grad():
        packed = pack(embed, [context], [[Block((20, 21), 2), Block((30, 31, 32), 0)]])
        logits = read_packed(lm, packed).logits  # (3, V): the first block has nothing to predict
        separate = target_logits(lm, [context], [(30, 31, 32)])
    assert packed.targets.tolist() == [30, 31, 32]
    torch.testing.assert_close(logits, separate, atol=1e-4, rtol=1e-4)
