"""How right an answer is, against several accepted ones: the best match counts.

Answers are compared as SQuAD 1.1 does (Rajpurkar et al. 2016): lower case, no punctuation, no
English articles, single spaces.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True, slots=True)
class AnswerScore:
    exact: float  # 0 or 1
    f1: float  # token overlap, 0 … 1
    contains: float  # 0 or 1: an accepted answer stands in the given one, word for word


def normalise(text: str) -> str:
    bare = text.lower().translate(PUNCTUATION)
    return " ".join(ARTICLES.sub(" ", bare).split())


def score_answer(given: str, accepted: Sequence[str]) -> AnswerScore:
    return AnswerScore(
        exact=max(exact_match(given, answer) for answer in accepted),
        f1=max(token_f1(given, answer) for answer in accepted),
        contains=max(contains(given, answer) for answer in accepted),
    )


def exact_match(given: str, accepted: str) -> float:
    return float(normalise(given) == normalise(accepted))


def token_f1(given: str, accepted: str) -> float:
    """Harmonic mean of the share of given words that are right and of right words given."""
    given_words, accepted_words = normalise(given).split(), normalise(accepted).split()
    if not given_words or not accepted_words:
        return float(given_words == accepted_words)
    common = sum((Counter(given_words) & Counter(accepted_words)).values())
    return 2.0 * common / (len(given_words) + len(accepted_words))


def contains(given: str, accepted: str) -> float:
    """Whole words only: "art" is not contained in "party"."""
    wanted = normalise(accepted)
    if not wanted:
        return exact_match(given, accepted)
    return float(f" {wanted} " in f" {normalise(given)} ")
