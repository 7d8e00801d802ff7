from __future__ import annotations

import pytest

from clients.evaluation.answers import contains, exact_match, normalise, score_answer, token_f1


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Eiffel Tower!", "eiffel tower"),
        ("an apple, a pear", "apple pear"),
        ("U.S.", "us"),
        ("theatre", "theatre"),
        ("Ångström", "ångström"),
        ("the", ""),
        ("  \n", ""),
    ],
)
def test_answers_are_normalised_as_squad_does(text: str, normal: str) -> None:
    assert normalise(text) == normal


def test_exact_match_ignores_case_articles_and_punctuation() -> None:
    assert exact_match("The Norman.", "norman") == 1
    assert exact_match("Normans", "norman") == 0


@pytest.mark.parametrize(
    ("given", "accepted", "f1"),
    [
        ("Denver Broncos", "Denver Broncos", 1.0),
        # 2 words in common, 5 given (the article goes), 2 accepted: 4 / 7
        ("It was the Denver Broncos team", "Denver Broncos", 4 / 7),
        ("red red red", "red", 2 * 1 / (3 + 1)),
        ("blue", "red", 0.0),
        ("", "red", 0.0),
        ("the", "a", 1.0),
    ],
)
def test_token_f1_of_hand_computed_cases(given: str, accepted: str, f1: float) -> None:
    assert token_f1(given, accepted) == pytest.approx(f1)


@pytest.mark.parametrize(
    ("given", "accepted", "hit"),
    [
        ("The answer is: the Patient Otter.", "Patient Otter", 1.0),
        ("a fine party", "art", 0.0),
        ("Otter, patient", "patient otter", 0.0),
        ("anything", "the", 0.0),
        ("", "Otter", 0.0),
    ],
)
def test_containment_is_of_whole_words_in_order(given: str, accepted: str, hit: float) -> None:
    assert contains(given, accepted) == hit


def test_the_best_accepted_answer_counts_for_each_measure() -> None:
    score = score_answer("It is Sybilla", ["Sybilla of Normandy", "Sybilla"])
    assert score.exact == 0
    assert score.f1 == pytest.approx(2 * 1 / (3 + 1))
    assert score.contains == 1
