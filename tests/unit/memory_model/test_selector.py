"""Keys and query vectors against plain references on a tiny random model."""

from __future__ import annotations

import torch

from memory_model.bundle import Bundle

LONG = [7, 20, 33, 46, 59, 72, 85, 98, 111, 124]
SHORT = [5, 9]


def test_an_untrained_key_is_the_direction_of_the_mean_code(tiny_bundle: Bundle) -> None:
    with torch.no_grad():
        codes = tiny_bundle.compressor.compress([LONG], slots=len(LONG))
        key = tiny_bundle.selector.keys([LONG])[0]
    torch.testing.assert_close(key.norm(), torch.tensor(1.0))
    assert torch.cosine_similarity(key, codes[0].mean(dim=0), dim=0) > 0.9999


def test_padding_in_a_batch_does_not_change_keys(tiny_bundle: Bundle) -> None:
    with torch.no_grad():
        together = tiny_bundle.selector.keys([LONG, SHORT])
        alone = tiny_bundle.selector.keys([SHORT])
    torch.testing.assert_close(together[1:], alone, atol=1e-5, rtol=1e-5)


def test_a_query_equal_to_a_passage_points_at_it(tiny_bundle: Bundle) -> None:
    with torch.no_grad():
        index = tiny_bundle.selector.keys([LONG, LONG[::-1], SHORT])
        query = tiny_bundle.selector.queries([SHORT])
    assert (query @ index.T).argmax() == 2
