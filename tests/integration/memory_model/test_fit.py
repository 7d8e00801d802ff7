"""The gradient fit on a tiny random model, against a straight-line reference."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from memory_model.bundle import Bundle
from memory_model.passages import Passage
from memory_model.reader import Reader
from trainer_worker import fit as fit_module
from trainer_worker.fit import Fitter

TEXTS = ["the cat sat on the mat and the dog", "a log"]


def passages_of(bundle: Bundle, texts: list[str]) -> list[Passage]:
    return [Passage(text, 0, len(text), tuple(bundle.base.tokenize(text))) for text in texts]


@pytest.fixture
def passages(tiny_bundle: Bundle) -> list[Passage]:
    return passages_of(tiny_bundle, TEXTS)


@pytest.fixture
def first_guess(tiny_bundle: Bundle, passages: list[Passage]) -> torch.Tensor:
    with torch.no_grad():
        return tiny_bundle.compressor.compress([passage.token_ids for passage in passages])


@pytest.fixture
def every_gain_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model's answers mean nothing: the reconstruction alone decides."""
    monkeypatch.setattr(fit_module, "HELD_OUT_TOLERANCE_NATS", 1e9)


@pytest.mark.usefixtures("every_gain_accepted")
def test_the_fit_remembers_better_than_no_memory_and_than_the_first_guess(
    tiny_bundle: Bundle,
    passages: list[Passage],
    first_guess: torch.Tensor,
) -> None:
    _, reports = Fitter(tiny_bundle, steps=40, learning_rate=0.05).fit(passages, first_guess)
    for report in reports:
        assert report.nats < report.nats_first_guess
        assert report.nats < 0.9 * report.nats_without_memory


@pytest.mark.usefixtures("every_gain_accepted")
def test_the_fit_equals_a_straight_line_reference(
    tiny_bundle: Bundle,
    passages: list[Passage],
    first_guess: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fit_module, "DISTILLATION_WEIGHT", 0.0)
    steps, rate = 6, 0.02
    codes, _ = Fitter(tiny_bundle, steps=steps, learning_rate=rate).fit(
        passages[:1], first_guess[:1]
    )

    reader = Reader(tiny_bundle.base, tiny_bundle.expander, tiny_bundle.config.template)
    lm, target = tiny_bundle.base.lm, torch.tensor([passages[0].token_ids])
    prefix = reader.embed(reader.prefix_tokens)[None]
    basis, triangle = torch.linalg.qr(tiny_bundle.expander.linear.weight)
    start = tiny_bundle.expander(first_guess[:1]).detach()
    delta = torch.zeros(1, 4, 32, requires_grad=True)
    adam = torch.optim.Adam([delta], lr=rate, betas=(0.9, 0.95))
    seen = []
    for _ in range(steps):
        soft = torch.cat([prefix, start + delta @ basis.T], dim=1)
        logits = lm(inputs_embeds=torch.cat([soft, reader.embed(target[0])[None]], dim=1)).logits
        predicted = logits[0, soft.shape[1] - 1 : -1]
        loss = functional.cross_entropy(predicted, target[0])
        seen.append((loss.item(), delta.detach().clone()))
        adam.zero_grad()
        loss.backward()
        adam.step()
    best = min(seen, key=lambda pair: pair[0])[1]
    expected = first_guess[:1] + best @ torch.linalg.inv(triangle).T
    torch.testing.assert_close(codes, expected, atol=2e-3, rtol=2e-3)


def test_documents_in_a_batch_do_not_influence_each_other(
    tiny_bundle: Bundle, passages: list[Passage], first_guess: torch.Tensor
) -> None:
    fitter = Fitter(tiny_bundle, steps=8, learning_rate=0.02)
    together, _ = fitter.fit(passages, first_guess)
    alone, _ = fitter.fit(passages[1:], first_guess[1:])
    torch.testing.assert_close(together[1:], alone, atol=1e-3, rtol=1e-3)


def test_a_refinement_that_loses_on_the_held_out_question_is_rejected(
    tiny_bundle: Bundle,
    passages: list[Passage],
    first_guess: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fit_module, "HELD_OUT_TOLERANCE_NATS", -1e9)
    codes, reports = Fitter(tiny_bundle, steps=4, learning_rate=0.05).fit(passages, first_guess)
    torch.testing.assert_close(codes, first_guess)
    for report in reports:
        assert not report.accepted
        assert report.nats == report.nats_first_guess


def test_a_passage_that_no_longer_gains_stops_early(
    tiny_bundle: Bundle,
    passages: list[Passage],
    first_guess: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fit_module, "PATIENCE_STEPS", 3)
    _, reports = Fitter(tiny_bundle, steps=50, learning_rate=1e-9).fit(passages, first_guess)
    assert [report.steps for report in reports] == [6, 6]


@pytest.mark.usefixtures("every_gain_accepted")
def test_a_passage_that_is_said_word_for_word_stops_while_others_go_on(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit_module, "PATIENCE_STEPS", 1_000)
    passages = passages_of(tiny_bundle, ["a log", "the cat sat on the mat and the dog " * 8])
    with torch.no_grad():
        guess = tiny_bundle.compressor.compress([passage.token_ids for passage in passages])
    fitter = Fitter(tiny_bundle, steps=60, learning_rate=0.05)
    assert fitter.measure(guess, [passage.token_ids for passage in passages])[1].max() < 1
    _, [short, long] = fitter.fit(passages, guess)
    assert short.token_accuracy == 1
    assert short.steps < long.steps == 60


@pytest.mark.usefixtures("every_gain_accepted")
def test_codes_move_to_where_their_format_remembers_more(
    tiny_bundle: Bundle,
    passages: list[Passage],
    first_guess: torch.Tensor,
) -> None:

    def first_slot(codes: torch.Tensor) -> torch.Tensor:
        """A format that keeps one slot of four."""
        return torch.cat([codes[:, :1], torch.zeros_like(codes[:, 1:])], dim=1)

    fitter = Fitter(tiny_bundle, steps=30, learning_rate=0.05)
    unaware, _ = fitter.fit(passages, first_guess)
    aware, reports = fitter.fit(passages, first_guess, as_stored=first_slot)
    targets = [passage.token_ids for passage in passages]
    nats = {
        name: fitter.measure(first_slot(codes), targets)[0]
        for name, codes in (("guess", first_guess), ("unaware", unaware), ("aware", aware))
    }
    assert (nats["aware"] < torch.minimum(nats["unaware"], nats["guess"])).all()
    torch.testing.assert_close(torch.tensor([report.nats for report in reports]), nats["aware"])


def test_progress_is_reported_and_what_it_raises_ends_the_fit(
    tiny_bundle: Bundle, passages: list[Passage], first_guess: torch.Tensor
) -> None:
    shares: list[float] = []

    def stop_at_half(share: float) -> None:
        shares.append(share)
        if share >= 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Fitter(tiny_bundle, steps=4, learning_rate=0.02).fit(passages, first_guess, stop_at_half)
    assert shares == [0.25, 0.5]
