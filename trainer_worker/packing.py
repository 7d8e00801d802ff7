"""Many questions on one context in one row of the batch.

    [context][question 1 + answer][question 2 + answer] …

Every block sees the context and itself, never another block, and its positions go on from the
end of the context: the numbers are those of separate rows, for one pass over the context. (For
SQuAD, 5 questions a passage, that is a quarter of the tokens.)

Symbols: B = rows, C = context positions, T = row length, N = predicted tokens, M = tokens of the
blocks that are read (all but the last of each), h = hidden size, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence


@dataclass(frozen=True, slots=True)
class Block:
    """Tokens after the context, of which those from ``prompt_length`` on are predicted.

    ``prompt_length`` 0: the first token is predicted by the last position of the context.
    """

    token_ids: tuple[int, ...]
    prompt_length: int


@dataclass(frozen=True, slots=True)
class Packed:
    """A batch ready for the LLM."""

    inputs_embeds: torch.Tensor  # (B, T, h)
    attention_mask: torch.Tensor  # (B, 1, T, T) additive
    position_ids: torch.Tensor  # (B, T)
    predicting: tuple[torch.Tensor, torch.Tensor]  # (N,) rows, (N,) positions
    targets: torch.Tensor  # (N,)
    read: tuple[torch.Tensor, torch.Tensor]  # (M,) rows, (M,) positions of the blocks' inputs
    block_of_target: torch.Tensor  # (N,) running number of the block over the whole batch


def pack(
    embed_tokens: Any, contexts: Sequence[torch.Tensor], blocks: Sequence[Sequence[Block]]
) -> Packed:
    """Lay out B contexts, each (C_i, h), with their blocks."""
    device, dtype = contexts[0].device, contexts[0].dtype
    rows, numbers, positions = [], [], []
    at_row: list[int] = []
    at_position: list[int] = []
    targets: list[int] = []
    owner: list[int] = []
    count = 0
    for row, (context, asked) in enumerate(zip(contexts, blocks, strict=True)):
        length = len(context)
        token_ids: list[int] = []
        number = [0] * length
        position = list(range(length))
        for index, block in enumerate(asked, start=1):
            start = length + len(token_ids)
            inputs = block.token_ids[:-1]
            for offset in range(block.prompt_length, len(block.token_ids)):
                at_row.append(row)
                at_position.append(start + offset - 1 if offset else length - 1)
                targets.append(block.token_ids[offset])
                owner.append(count)
            token_ids.extend(inputs)
            number.extend([index] * len(inputs))
            position.extend(range(length, length + len(inputs)))
            count += 1
        embedded = embed_tokens(torch.tensor(token_ids, dtype=torch.long, device=device))
        rows.append(torch.cat([context, embedded]))
        numbers.append(torch.tensor(number))
        positions.append(torch.tensor(position))
    inputs_embeds = pad_sequence(rows, batch_first=True)  # (B, T, h)
    block_of = pad_sequence(numbers, batch_first=True, padding_value=-1).to(device)  # (B, T)
    in_block = (block_of > 0).nonzero()  # (M, 2)
    return Packed(
        inputs_embeds=inputs_embeds,
        attention_mask=_mask(block_of, dtype),
        position_ids=pad_sequence(positions, batch_first=True).to(device),
        predicting=(torch.tensor(at_row, device=device), torch.tensor(at_position, device=device)),
        targets=torch.tensor(targets, device=device),
        read=(in_block[:, 0], in_block[:, 1]),
        block_of_target=torch.tensor(owner, device=device),
    )


@dataclass(frozen=True, slots=True)
class PackedOutput:
    """What the LLM made of a batch."""

    logits: torch.Tensor  # (N, V) float32, of the predicted tokens
    states: tuple[torch.Tensor, ...]  # of each layer (M, h), where blocks are read; may be left out


def read_packed(lm: Any, packed: Packed, *, with_states: bool = False) -> PackedOutput:
    """Run the LLM on a batch."""
    output = lm.base_model(
        inputs_embeds=packed.inputs_embeds,
        attention_mask=packed.attention_mask,
        position_ids=packed.position_ids,
        use_cache=False,
        output_hidden_states=with_states,
    )
    predicting = output.last_hidden_state[packed.predicting]  # (N, h)
    states = output.hidden_states[1:] if with_states else ()  # 0 are the embeddings
    return PackedOutput(
        logits=lm.get_output_embeddings()(predicting).float(),
        states=tuple(layer[packed.read] for layer in states),
    )


def _mask(block_of: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """(B, T) block numbers, 0 = context, -1 = padding -> (B, 1, T, T), 0 where i may see j."""
    length = block_of.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=block_of.device).tril()
    seen = (block_of[:, None, :] == 0) | (block_of[:, :, None] == block_of[:, None, :])
    visible = seen & causal  # (B, T, T); padding sees the context and padding: no empty row
    hidden = torch.full((), torch.finfo(dtype).min, dtype=dtype, device=block_of.device)
    return torch.where(visible, torch.zeros_like(hidden), hidden)[:, None]
