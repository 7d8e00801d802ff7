"""Which bundle a process opens."""

from __future__ import annotations

from pathlib import Path

import pytest

from memory_model.bundle import Bundle, save_bundle
from memory_model.errors import BundleError
from memory_model.runtime import open_bundle
from paramem.settings import ReaderKind, Settings


@pytest.fixture
def saved(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    """A bundle of 4 slots x 32 numbers."""
    save_bundle(tmp_path / "bundle", tiny_bundle.config, tiny_bundle.heads)
    return tmp_path / "bundle"


def test_a_bundle_brings_its_own_shape(saved: Path, tiny_model: Path, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, model=str(tiny_model), bundle=saved, device="cpu")
    assert open_bundle(settings).config.slots == 4


def test_asking_a_bundle_for_another_shape_is_refused_with_both(
    saved: Path, tiny_model: Path, tmp_path: Path
) -> None:
    settings = Settings(home=tmp_path, model=str(tiny_model), bundle=saved, slots=8)
    with pytest.raises(BundleError, match=r"PARAMEM_SLOTS=8.*trained for 4.*untrained"):
        open_bundle(settings)


def test_an_untrained_bundle_can_be_asked_for_by_name(tiny_model: Path, tmp_path: Path) -> None:
    settings = Settings(
        home=tmp_path,
        model=str(tiny_model),
        bundle=Path("untrained"),
        device="cpu",
        slots=2,
        z_dim=16,
    )
    config = open_bundle(settings).config
    assert (config.slots, config.z_dim, config.trained) == (2, 16, False)


def test_an_untrained_bundle_has_no_reader_of_text(tiny_model: Path, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, model=str(tiny_model), reader=ReaderKind.TEXT)
    with pytest.raises(BundleError, match="trained bundle"):
        open_bundle(settings)
