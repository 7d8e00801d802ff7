"""Keys and query vectors against plain references on a tiny random model."""

from __future__ import annotations

import torch

from memory_model.bundle import Bundle

LONG = "the cat sat on the mat and the dog sat on the log"
SHORT = "a log"


def test_an_untrained_key_is_the_direction_of_the_mean_code(tiny_bundle: Bundle) -> None:
    token_ids = tiny_bundle.base.tokenize(LONG)
    with torch.no_grad():
        codes = tiny_bundle.compressor.compress([token_ids], slots=len(token_ids))
        key = tiny_bundle.selector.keys([LONG])[0]
    torch.testing.assert_close(key.norm(), torch.tensor(1.0))
    assert torch.cosine_similarity(key, codes[0].mean(dim=0), dim=0) > 0.9999


def test_texts_of_other_lengths_in_a_batch_do_not_change_a_key(tiny_bundle: Bundle) -> None:
    with torch.no_grad():
        together = tiny_bundle.selector.keys([LONG, SHORT])
        alone = tiny_bundle.selector.keys([SHORT])
    torch.testing.assert_close(together[1:], alone, atol=1e-5, rtol=1e-5)


def test_case_makes_no_difference(tiny_bundle: Bundle) -> None:
    with torch.no_grad():
        index = tiny_bundle.selector.keys([LONG, LONG[::-1], SHORT])
        query = tiny_bundle.selector.queries([SHORT.upper()])
    assert (query @ index.T).argmax() == 2
    torch.testing.assert_close(query[0], index[2])
