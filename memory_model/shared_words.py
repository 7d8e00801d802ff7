"""Exact words that a query shares with a passage, each counted for what it tells.

Slots blur: a name that a slot shares with a comma is found by what it is like, not by how it is
spelt. So the re-ranker's score gets, beside late interaction,

    weight · Σ_{w in query and passage} i(w) / Σ_{w in query} i(w)

where i(w) is what the word tells beyond the commonest, in nats: -log of how often its tokens came
in the training texts, which the bundle keeps (the idea of inverse document frequency, Spärck Jones
1972, without a corpus to count in). Words are in lower case and cut to five letters, which stems
without knowing the language; of one that is written without spaces few are shared. Weight, cut and
letters were chosen on held-out documents of squad-train (experiments/LOG.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import xxhash

from memory_model.hashing import WORD

WEIGHT = 0.7
LETTERS = 5
COMMON_NATS = 5.0
"""Of words that tell nothing: "the" has 3, "when" 7, "ferry" 12, a rare name 20 to 30."""

Words = npt.NDArray[np.uint32]
"""(n,) hashes of the different words of a text."""


def words_of(text: str) -> Words:
    """What to compare a query's words with."""
    return np.array(sorted({_hashed(word) for word in WORD.findall(text.lower())}), np.uint32)


def weigh_words(
    query: str, tokenize: Callable[[str], Sequence[int]], information: npt.NDArray[np.float32]
) -> dict[int, float]:
    """What it counts that a passage has each of the query's words.

    Args:
        information: (V,) -log of each token's frequency; all alike = unknown, nothing counts.

    Returns: by the word's hash; together ``WEIGHT``, or empty.
    """
    if information.min() == information.max():
        return {}
    told: dict[int, float] = {}
    for word in set(WORD.findall(query.lower())):
        # a name is a name, however whoever asks writes it
        forms = [tokenize(f" {form}") for form in {word, word.capitalize()}]
        nats = -np.log(sum(np.exp(-information[form].sum()) for form in forms))
        if nats > COMMON_NATS:
            key = _hashed(word)
            told[key] = max(told.get(key, 0.0), float(nats) - COMMON_NATS)
    whole = sum(told.values())
    return {key: WEIGHT * nats / whole for key, nats in told.items()}


def count_shared(
    words: Mapping[int, float], passages: Sequence[Words | None]
) -> npt.NDArray[np.float32]:
    """What the words of a query count that each passage has. None: its text was not kept, so that
    it is taken for an average one of them. Returns: (C,)"""
    kept = np.array([passage is not None for passage in passages], bool)  # (C,)
    if not words or not kept.any():
        return np.zeros(len(passages), np.float32)
    keys, weights = np.array(sorted(words.items())).T  # (W,) twice; float64 holds 32 bits
    known = [passage for passage in passages if passage is not None]
    said = np.concatenate(known)  # all words of the C
    owners = np.repeat(np.flatnonzero(kept), [len(passage) for passage in known])
    place = np.searchsorted(keys, said).clip(max=len(keys) - 1)
    worth = np.where(keys[place] == said, weights[place], 0.0)
    counted = np.bincount(owners, worth, minlength=len(passages))  # (C,)
    counted[~kept] = counted[kept].mean()
    return counted.astype(np.float32)


def _hashed(word: str) -> int:
    return xxhash.xxh32_intdigest(word[:LETTERS].encode())
