"""The compressor against plain references on a tiny random model."""

from __future__ import annotations

import torch

from memory_model.bundle import Bundle

LONG = [7, 20, 33, 46, 59, 72, 85, 98, 111, 124]
SHORT = [5, 9]


def test_passages_of_one_batch_can_have_different_numbers_of_slots(tiny_bundle: Bundle) -> None:
    compressor = tiny_bundle.compressor
    with torch.no_grad():
        codes = compressor.compress([LONG, SHORT], slots=torch.tensor([5, 2]))  # (2, 5, d)
        torch.testing.assert_close(codes[0], compressor.compress([LONG], slots=5)[0])
        torch.testing.assert_close(codes[1, :2], compressor.compress([SHORT], slots=2)[0])


def test_codes_of_tokens_are_those_of_windows_of_one_token(tiny_bundle: Bundle) -> None:
    compressor = tiny_bundle.compressor
    with torch.no_grad():
        codes = compressor.compress_tokens([LONG, SHORT])  # (2, 10, d)
        torch.testing.assert_close(codes[0], compressor.compress([LONG], slots=len(LONG))[0])
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


def test_a_rare_token_gets_a_window_of_its_own(tiny_bundle: Bundle) -> None:
    compressor = tiny_bundle.compressor
    rare = LONG[4]
    compressor.token_information[rare] = 5.0
    try:
        with torch.no_grad():
            codes = compressor.compress([LONG], slots=3)[0]  # (m, d)
            reading = compressor.read([LONG])
            alone = compressor.head(reading.embedded[0, 4], reading.states[0, 4])
    finally:
        compressor.token_information.fill_(1.0)
    torch.testing.assert_close(codes[1], alone)


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
