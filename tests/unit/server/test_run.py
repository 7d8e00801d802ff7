"""What the server process refuses before it listens."""

from __future__ import annotations

import pytest

from paramem.settings import load_settings
from server import run


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
