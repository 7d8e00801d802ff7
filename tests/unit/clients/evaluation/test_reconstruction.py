from __future__ import annotations

import math

import pytest

from clients.evaluation.reconstruction import likelihood, rouge_l
from clients.results import Memory, Passage, ReconstructedPassage, Reconstruction


def passage(number: int, tokens: int, span: tuple[int, int] = (0, 0), **stats: float) -> Passage:
    return Passage(
        passage=number,
        tier="fit",
        num_tokens=tokens,
        text_start=span[0],
        text_end=span[1],
        stats=stats,
    )


def test_likelihood_is_weighted_by_tokens() -> None:
    long = passage(0, 30, nats_per_token=1.0, nats_per_token_without_memory=4.0)
    short = passage(1, 10, nats_per_token=2.0, nats_per_token_without_memory=2.0)
    found = likelihood([Memory(document_id="a", passages=(long, short))])
    assert found is not None
    assert found.nats_per_token == pytest.approx((30 * 1 + 10 * 2) / 40)
    assert found.nats_per_token_without_memory == pytest.approx((30 * 4 + 10 * 2) / 40)
    assert found.nats_removed_percent == pytest.approx(100 * (1 - 1.25 / 3.5))
    assert found.perplexity == pytest.approx(math.exp(1.25))
    assert found.passages == 2


def test_passages_nobody_measured_are_left_out() -> None:
    measured = passage(0, 10, nats_per_token=1.0, nats_per_token_without_memory=4.0)
    found = likelihood([Memory(document_id="a", passages=(measured, passage(1, 90)))])
    assert found is not None
    assert found.passages == 1
    assert likelihood([Memory(document_id="a", passages=(passage(0, 90),))]) is None


def test_rouge_l_compares_each_passage_with_its_own_span() -> None:
    text = "the cat sat on the mat. dogs bark"
    memory = Memory(document_id="a", passages=(passage(0, 6, (0, 23)), passage(1, 2, (24, 33))))
    recited = Reconstruction(
        document_id="a",
        passages=(
            ReconstructedPassage(passage=0, text="the cat sat"),  # P 3/3, R 3/6: F 2/3
            ReconstructedPassage(passage=1, text="birds sing"),  # nothing
        ),
    )
    assert rouge_l(text, memory, recited) == pytest.approx((2 / 3 + 0) / 2)


def test_a_perfect_recitation_scores_one() -> None:
    memory = Memory(document_id="a", passages=(passage(0, 2, (0, 9)),))
    recited = Reconstruction(
        document_id="a", passages=(ReconstructedPassage(passage=0, text="dogs bark"),)
    )
    assert rouge_l("dogs bark", memory, recited) == 1.0
