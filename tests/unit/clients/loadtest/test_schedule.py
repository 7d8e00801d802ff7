"""Arrivals: the same for everyone, as random as they should be."""

from __future__ import annotations

import itertools

import pytest

from clients.loadtest.schedule import Schedule


def test_arrivals_are_poisson_and_the_same_for_every_endpoint() -> None:
    schedule = Schedule(requests=4000, warmup=0, rate=8.0, concurrency=1, seed=3)
    due = schedule.due_s()
    assert due is not None
    assert due == Schedule(requests=4000, warmup=0, rate=8.0, concurrency=1, seed=3).due_s()
    gaps = [b - a for a, b in itertools.pairwise([0.0, *due])]
    mean = sum(gaps) / len(gaps)
    assert mean == pytest.approx(1 / 8, rel=0.05)
    # exponential: the standard deviation is the mean
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert deviation == pytest.approx(mean, rel=0.1)


def test_a_closed_loop_has_no_times() -> None:
    assert Schedule(requests=5, warmup=0, rate=None, concurrency=2).due_s() is None


def test_questions_are_all_drawn_before_one_comes_again() -> None:
    schedule = Schedule(requests=7, warmup=0, rate=None, concurrency=1, seed=1)
    drawn = schedule.draw(["a", "b", "c"])
    assert len(drawn) == 7
    assert sorted(drawn[:3]) == sorted(drawn[3:6]) == ["a", "b", "c"]
    assert drawn == schedule.draw(["a", "b", "c"])
