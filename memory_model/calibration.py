"""An untrained bundle: heads in closed form, from text the model makes up itself.

No data set and no gradient: the base LLM samples a few thousand tokens of text; the code head is
the PCA-whitening of its first layers' bidirectional states on them, the expander the ridge
regression from window codes back to mean token embeddings. Whitening is what makes the pooled
codes searchable (a few directions of huge variance otherwise decide every cosine).

Symbols: T = calibration tokens, h = hidden size, d = code dimension.
"""

from __future__ import annotations

from pathlib import Path

import torch

from memory_model.base import BaseModel
from memory_model.bundle import BundleConfig, build_heads, save_bundle
from memory_model.compressor import Compressor
from memory_model.errors import BundleError
from memory_model.expander import Expander
from memory_model.selector import LAYERS, Selector
from memory_model.template import Template
from memory_model.windows import window_weights

SEQUENCES, TOKENS = 32, 100
WHITENING_RIDGE = 0.1  # of the mean eigenvalue: keeps rare directions from being blown up
EXPANDER_RIDGE = 0.01
EXPANDER_GAIN = 2.0
NEUTRAL_TEXT = "\n"
WINDOW_TOKENS = (1, 4, 8, 16)  # window lengths the expander is fitted on
SEED = 0


def create_untrained_bundle(directory: Path, base: BaseModel, *, slots: int, z_dim: int) -> None:
    """Compute and save the untrained bundle of a base model (about 10 s for the default model).

    Raises:
        BundleError: ``z_dim`` is larger than the LLM's hidden size.
    """
    if z_dim > base.hidden_size:
        raise BundleError(
            f"PARAMEM_Z_DIM={z_dim} is larger than {base.name}'s hidden size {base.hidden_size}"
        )
    config = BundleConfig(
        base_model=base.name,
        weights_hash=base.weights_hash,
        slots=slots,
        z_dim=z_dim,
        layers=LAYERS,
        template=Template(),
        trained=False,
    )
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(SEED)  # a rerun must give the same memories
        heads = build_heads(config, base)
        token_ids = sample_text(base)
        fit_code_head(heads["compressor"], token_ids)
        fit_selector(heads["selector"], heads["compressor"])
        fit_expander(heads["compressor"], heads["expander"], token_ids, base)
    save_bundle(directory, config, heads)


def sample_text(base: BaseModel) -> list[list[int]]:
    """Text from the model itself, temperature 1. Returns: SEQUENCES lists of TOKENS ids."""
    start_id = base.tokenizer.bos_token_id or 0
    if base.tokenizer.unk_token_id is not None and base.tokenizer.chat_template is not None:
        start_id = base.tokenizer.unk_token_id  # chat models open documents with end-of-text
    start = torch.full((SEQUENCES, 1), start_id, device=base.device)
    sampled = base.lm.generate(
        input_ids=start,
        attention_mask=torch.ones_like(start),
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        min_new_tokens=TOKENS,
        max_new_tokens=TOKENS,
        pad_token_id=start_id,
    )
    rows: list[list[int]] = sampled[:, 1:].tolist()
    return rows


def fit_code_head(compressor: Compressor, token_ids: list[list[int]]) -> None:
    """Set the code head to the PCA-whitening of token states: z = Λ^(-1/2) Vᵀ (s - mean)."""
    states = compressor.read(token_ids).states.flatten(0, 1)  # (T, h)
    mean = states.mean(dim=0)
    _, singular, basis = torch.linalg.svd(states - mean, full_matrices=False)  # basis (h, h)
    variance = singular.square() / len(states)
    scale = (variance + WHITENING_RIDGE * variance.mean()).rsqrt()
    d = compressor.code_head.out_features
    weight = basis[:d] * scale[:d, None]  # (d, h)
    # the sign of a principal direction is arbitrary: fix it, so that a rerun gives the same codes
    weight *= weight.gather(1, weight.abs().argmax(dim=1, keepdim=True)).sign()
    compressor.code_head.weight.copy_(weight)
    compressor.code_head.bias.copy_(-weight @ mean)
    compressor.embedding_head.weight.zero_()


def fit_selector(selector: Selector, compressor: Compressor) -> None:
    """Let both heads see what the code head does: a key is then the direction of the mean z."""
    for head in (selector.key_head, selector.query_head):
        head.weight.copy_(compressor.code_head.weight)
        head.bias.copy_(compressor.code_head.bias)


def fit_expander(
    compressor: Compressor, expander: Expander, token_ids: list[list[int]], base: BaseModel
) -> None:
    """Set the expander to a neutral token plus what the window's mean embedding has of its own.

    The linear part is the ridge regression from window code to (centred) mean token embedding.
    Its plain sum with the mean is a vector that no LLM has seen, and costs an untrained reader
    5 nats per token; around the embedding of a line break it costs nothing, and the fit starts
    from there (experiments/LOG.md).
    """
    reading = compressor.read(token_ids)
    information = compressor.token_information[reading.token_ids]  # (B, L)
    codes, targets = [], []
    for tokens in WINDOW_TOKENS:
        weights = window_weights(information, reading.mask, TOKENS // tokens)  # (B, windows, L)
        means = weights @ reading.embedded  # (B, windows, h)
        codes.append(compressor.head(means, weights @ reading.states).flatten(0, 1))
        targets.append(means.flatten(0, 1))
    x = torch.cat(codes)  # (N, d)
    y = torch.cat(targets)  # (N, h)
    x, y = x - x.mean(dim=0), y - y.mean(dim=0)
    gram = x.T @ x
    gram.diagonal().add_(EXPANDER_RIDGE * gram.diagonal().mean())
    weight = torch.linalg.solve(gram, x.T @ y).T  # (h, d)
    neutral = torch.tensor(base.tokenize(NEUTRAL_TEXT)[-1:], device=base.device)
    expander.linear.weight.copy_(EXPANDER_GAIN * weight)
    expander.linear.bias.copy_(base.embed_tokens(neutral)[0])
