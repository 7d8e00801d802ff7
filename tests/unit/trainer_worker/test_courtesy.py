"""How long a worker waits for queries between two steps."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from trainer_worker import courtesy
from trainer_worker.courtesy import LOOK_EVERY_S, QUIET_S, Courtesy

LOOK = LOOK_EVERY_S * 1.01


class Clock:
    """Time that passes only where someone works or waits."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.stopped = False

    def wait(self, seconds: float) -> bool:
        self.now += seconds
        return self.stopped


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(courtesy.time, "monotonic", lambda: made.now)
    return made


def working(clock: Clock, answering: Callable[[], bool], share: float, seconds: float) -> Courtesy:
    """One that has worked so many seconds."""
    made = Courtesy(answering, clock.wait, share=share)
    made.begin()
    clock.now += seconds
    return made


def test_it_does_not_wait_where_nobody_asks(clock: Clock) -> None:
    assert working(clock, lambda: False, share=0.2, seconds=10).pause() == 0


def test_it_waits_until_queries_are_answered_and_a_moment_longer(clock: Clock) -> None:
    answered = clock.now + 10 + 0.7
    waited = working(clock, lambda: clock.now < answered, share=0.2, seconds=10).pause()
    assert 0.7 + QUIET_S - LOOK <= waited <= 0.7 + QUIET_S + LOOK


def test_a_question_right_after_another_is_waited_for_too(clock: Clock) -> None:
    start = clock.now + 10
    gap = (0.3, 0.3 + QUIET_S / 2)  # between two queries of one client
    waited = working(
        clock,
        lambda: not gap[0] <= clock.now - start < gap[1] and clock.now - start < 0.6,
        share=0.2,
        seconds=10,
    ).pause()
    assert waited >= 0.6


@pytest.mark.parametrize(("share", "longest_s"), [(0.2, 8.0), (0.5, 2.0), (1.0, 0.0)])
def test_work_goes_on_for_its_share_of_the_time_whatever_is_asked(
    clock: Clock, share: float, longest_s: float
) -> None:
    courteous = working(clock, lambda: True, share=share, seconds=2)
    assert courteous.pause() == pytest.approx(longest_s, abs=LOOK)
    clock.now += 1  # the next step is measured by itself
    assert courteous.pause() == pytest.approx(longest_s / 2, abs=LOOK)


def test_a_worker_asked_to_stop_waits_no_more(clock: Clock) -> None:
    clock.stopped = True
    assert working(clock, lambda: True, share=0.2, seconds=10).pause() <= LOOK
