"""Settings: read from the environment, refused when wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from paramem.settings import UnknownSettingError, load_client_settings, load_settings


def test_an_unknown_setting_is_refused_with_the_nearest_known_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PARAMEM_MAX_QUEU", "3")
    with pytest.raises(
        UnknownSettingError, match="PARAMEM_MAX_QUEU; did you mean PARAMEM_MAX_QUEUE"
    ):
        load_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [("PORT", "70000"), ("ENGINE", "magic"), ("SLOTS", "0"), ("CODE_FORMAT", "fp3")],
)
def test_a_value_out_of_range_names_its_field(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"PARAMEM_{name}", value)
    with pytest.raises(ValidationError, match=name.lower()):
        load_settings()


def test_flags_win_over_the_environment_and_none_means_not_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PARAMEM_PORT", "1234")
    monkeypatch.setenv("PARAMEM_HOST", "127.0.0.2")
    settings = load_settings(port=99, host=None)
    assert (settings.port, settings.host) == (99, "127.0.0.2")


def test_paths_are_expanded_and_absolute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARAMEM_HOME", "~/memories")
    monkeypatch.setenv("PARAMEM_BUNDLE", "here")
    settings = load_settings()
    assert settings.home == Path("~/memories").expanduser()
    assert settings.bundle == Path("here").absolute()


def test_untrained_is_not_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARAMEM_BUNDLE", "untrained")
    assert load_settings().bundle == Path("untrained")


def test_a_clients_key_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARAMEM_API_KEY", "s3cret")
    settings = load_client_settings()
    assert settings.api_key is not None
    assert settings.api_key.get_secret_value() == "s3cret"
    assert "s3cret" not in repr(settings)
