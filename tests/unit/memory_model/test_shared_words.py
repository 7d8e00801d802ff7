"""What a query's words count, and which passages share them."""

from __future__ import annotations

import numpy as np
import pytest

from memory_model.shared_words import WEIGHT, count_shared, weigh_words, words_of

TOKENS = {" the": 0, " The": 1, " ferry": 2, " Ferry": 3, " leaves": 4, " Leaves": 5}
INFORMATION = np.array([3.0, 4.0, 9.0, 9.0, 7.0, 8.0, 15.0], np.float32)


def tokenize(word: str) -> list[int]:
    return [TOKENS.get(word, 6)]


def key(word: str) -> int:
    return int(words_of(word)[0])


def test_a_word_counts_for_what_it_tells_and_all_together_for_the_weight() -> None:
    words = weigh_words("The ferry, the Ferry leaves!", tokenize, INFORMATION)
    assert set(words) == {key("ferry"), key("leaves")}  # "the" tells nothing
    assert sum(words.values()) == pytest.approx(WEIGHT)
    # both ways to write it: -log(2 e^-9), and -log(e^-7 + e^-8), beyond 5
    assert words[key("ferry")] / words[key("leaves")] == pytest.approx(3.307 / 1.687, rel=1e-3)


@pytest.mark.parametrize("query", ["the", "?!", ""])
def test_a_query_whose_words_tell_nothing_counts_none(query: str) -> None:
    assert weigh_words(query, tokenize, INFORMATION) == {}


def test_a_bundle_that_does_not_know_what_tokens_tell_counts_no_words() -> None:
    assert weigh_words("the ferry", tokenize, np.ones(7, np.float32)) == {}


def test_words_are_the_same_in_any_case_and_with_other_endings() -> None:
    assert words_of("LEAVES, leaves").tolist() == words_of("leaved").tolist()
    assert words_of("leaf").tolist() != words_of("leaves").tolist()
    assert len(words_of("...")) == 0


def test_each_passage_counts_the_words_it_shares() -> None:
    words = {key("ferry"): 0.5, key("leaves"): 0.2}
    passages = [words_of(text) for text in ("It leaves.", "", "A ferry leaves; a ferry.", "None")]
    assert count_shared(words, passages).tolist() == pytest.approx([0.2, 0.0, 0.7, 0.0])


def test_a_passage_whose_text_was_not_kept_is_taken_for_an_average_one() -> None:
    words = {key("ferry"): 0.6}
    passages = [words_of("A ferry"), None, words_of("A gull")]
    assert count_shared(words, passages).tolist() == pytest.approx([0.6, 0.3, 0.0])
    assert count_shared(words, [None, None]).tolist() == [0.0, 0.0]
    assert count_shared({}, passages).tolist() == [0.0, 0.0, 0.0]
