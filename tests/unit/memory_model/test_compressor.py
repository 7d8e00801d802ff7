"""The compressor against plain references on a tiny random model."""

from __future__ import annotations

import torch

from memory_model.bundle import Bundle
from memory_model.compressor import window_weights

LONG = [7, 20, 33, 46, 59, 72, 85, 98, 111, 124]
SHORT = [5, 9]


def test_windows_are_even_ordered_and_average_their_tokens() -> None:
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    weights = window_weights(mask, 2)  # (2, 2, 6)
    third, half = 1 / 3, 1 / 2
    expected = torch.tensor(
        [
            [[third, third, third, 0, 0, 0], [0, 0, 0, third, third, third]],
            [[half, half, 0, 0, 0, 0], [0, 0, half, half, 0, 0]],
        ]
    )
    torch.testing.assert_close(weights, expected)


def test_a_passage_shorter_than_the_slots_fills_every_slot() -> None:
    weights = window_weights(torch.tensor([[True, True, False]]), 4)  # (1, 4, 3)
    assert weights.sum(dim=-1).allclose(torch.ones(1, 4))
    assert weights[0].argmax(dim=-1).tolist() == [0, 0, 1, 1]


def test_passages_of_one_batch_can_have_different_numbers_of_slots(tiny_bundle: Bundle) -> None:
    compressor = tiny_bundle.compressor
    with torch.no_grad():
        codes = compressor.compress([LONG, SHORT], slots=torch.tensor([5, 2]))  # (2, 5, d)
        torch.testing.assert_close(codes[0], compressor.compress([LONG], slots=5)[0])
        torch.testing.assert_close(codes[1, :2], compressor.compress([SHORT], slots=2)[0])


def test_codes_equal_a_plain_loop_over_windows(tiny_bundle: Bundle) -> None:
    compressor = tiny_bundle.compressor
    with torch.no_grad():
        codes = compressor.compress([LONG])[0]  # (m, d)
        reading = compressor.read([LONG])
        bounds = [(0, 2), (2, 5), (5, 7), (7, 10)]
        reference = [
            compressor.embedding_head(reading.embedded[0, a:b].mean(dim=0))
            + compressor.code_head(reading.states[0, a:b].mean(dim=0))
            for a, b in bounds
        ]
    torch.testing.assert_close(codes, torch.stack(reference))


def test_within_a_window_tokens_of_higher_score_count_more(tiny_bundle: Bundle) -> None:
    mask = torch.tensor([[True, True, True, True, False]])
    scores = torch.tensor([[0.0, 2.0, 1.0, 1.0, 9.0]])[..., None]
    weights = window_weights(mask, 2, scores)[0]  # (m, L)
    first = torch.tensor([0.0, 2.0]).softmax(dim=0).tolist()
    expected = torch.tensor([[*first, 0.0, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5, 0.0]])
    torch.testing.assert_close(weights, expected)


def test_padding_in_a_batch_does_not_change_codes(tiny_bundle: Bundle) -> None:
    with torch.no_grad():
        together = tiny_bundle.compressor.compress([LONG, SHORT])
        alone = tiny_bundle.compressor.compress([SHORT])
    torch.testing.assert_close(together[1:], alone, atol=1e-5, rtol=1e-5)


def test_attention_is_bidirectional(tiny_bundle: Bundle) -> None:
    changed = [*LONG[:-1], 200]
    with torch.no_grad():
        before = tiny_bundle.compressor.compress([LONG])[0, 0]
        after = tiny_bundle.compressor.compress([changed])[0, 0]
    assert (before - after).abs().max() > 1e-4  # the first window has seen the last token


def test_only_the_first_layers_run_and_the_model_stays_whole(tiny_bundle: Bundle) -> None:
    lm = tiny_bundle.base.lm
    ids = torch.tensor([LONG])
    with torch.no_grad():
        hidden = lm(input_ids=ids, output_hidden_states=True).hidden_states
        # one token alone: bidirectional and causal attention are the same thing
        single = lm(input_ids=ids[:, :1], output_hidden_states=True).hidden_states[1]
        states = tiny_bundle.compressor.read([LONG[:1]]).states
    assert len(hidden) == lm.config.num_hidden_layers + 1
    torch.testing.assert_close(states, single)
