"""What the demo does when its server cannot answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from clients.demo import DemoServerError, demo_server


@pytest.mark.timeout(120)
def test_an_engine_that_cannot_load_ends_the_wait_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARAMEM_MODEL", str(tmp_path / "nowhere"))
    with (
        pytest.raises(DemoServerError, match=r"did not start.*nowhere"),
        demo_server(tmp_path / "home", lambda _what: None),
    ):
        pass
