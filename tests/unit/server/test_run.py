"""What the server process refuses before it listens, and what it does between requests."""

from __future__ import annotations

import asyncio
import gc
import weakref
from types import SimpleNamespace
from typing import cast

import pytest
from fastapi import FastAPI

from paramem.settings import load_settings
from server import run
from server.services import Services


@pytest.mark.parametrize("installed", [True, False])
def test_an_engine_that_is_not_installed_is_refused_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, installed: bool
) -> None:
    monkeypatch.setattr(run.importlib.util, "find_spec", lambda _: object() if installed else None)
    run.refuse_missing_engine(load_settings(engine="dummy"))
    if installed:
        run.refuse_missing_engine(load_settings(engine="vllm"))
        return
    with pytest.raises(SystemExit, match=r"pip install 'paramem\[worker,vllm\]'"):
        run.refuse_missing_engine(load_settings(engine="vllm"))


def test_what_a_dead_engine_held_is_given_back() -> None:
    class Core:
        def __init__(self) -> None:
            self.itself = self

    services = SimpleNamespace(
        engine=SimpleNamespace(lost=False), engine_state="loading", draining=False
    )
    config = run.server_config(FastAPI(), host="127.0.0.1", port=0)
    server = run.DrainingServer(config, cast(Services, services))
    gc.unfreeze()
    try:
        asyncio.run(server.on_tick(1))
        assert gc.get_freeze_count() == 0
        core = Core()
        held = weakref.ref(core)
        services.engine_state = "ready"
        asyncio.run(server.on_tick(1))
        assert gc.get_freeze_count() > 0
        del core
        services.engine_state = "dead"
        asyncio.run(server.on_tick(1))
        assert held() is None
        assert gc.get_freeze_count() == 0
    finally:
        gc.unfreeze()
