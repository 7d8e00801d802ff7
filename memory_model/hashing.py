"""A deterministic stand-in for the LLM's representations: feature hashing of words.

The dummy writer and the dummy engine share it, so that the whole service runs in milliseconds
without torch and a query still selects the passage that shares its words
(Weinberger et al. 2009, "Feature hashing for large scale multitask learning").
"""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt
import xxhash

WORD = re.compile(r"\w+", re.UNICODE)
DUMMY_FINGERPRINT = "dummy-1"


def hash_words(text: str, dim: int) -> npt.NDArray[np.float32]:
    """Signed bag of hashed words, unit norm (zero vector for text without words).

    Returns: (dim,)
    """
    vector = np.zeros(dim, dtype=np.float32)
    for word in WORD.findall(text.lower()):
        digest = xxhash.xxh64_intdigest(word.encode())
        vector[digest % dim] += 1.0 if digest >> 63 else -1.0
    norm = float(np.linalg.norm(vector))
    return vector / norm if norm > 0 else vector


def hash_codes(text: str, slots: int, dim: int) -> npt.NDArray[np.float32]:
    """One hashed bag per window: the words dealt out in order over the slots.

    Returns: (m, d)
    """
    words = WORD.findall(text.lower())
    windows = np.array_split(np.array(words, dtype=object), slots)
    return np.stack([hash_words(" ".join(window), dim) for window in windows])
