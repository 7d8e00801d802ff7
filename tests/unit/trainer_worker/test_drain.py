"""Asking a worker to stop."""

from __future__ import annotations

import math

from trainer_worker.drain import Drain


def test_nobody_asked() -> None:
    drain = Drain(30)
    assert not drain.requested
    assert drain.overdue_s == -math.inf
    assert not drain.wait(0)


def test_a_request_leaves_the_grace() -> None:
    drain = Drain(30)
    drain.request()
    assert drain.requested
    assert drain.wait(60)
    assert -30 <= drain.overdue_s < 0


def test_asking_again_never_moves_the_deadline_back() -> None:
    drain = Drain(1000)
    drain.request(at_once=True)
    drain.request()
    assert drain.overdue_s >= 0


def test_a_grace_can_be_cut_short() -> None:
    drain = Drain(1000)
    drain.request()
    assert drain.overdue_s < 0
    drain.request(at_once=True)
    assert drain.overdue_s >= 0
