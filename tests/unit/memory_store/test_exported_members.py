"""``memory_store`` exports what it lists, sorted, and never torch."""

from __future__ import annotations

import subprocess
import sys

import memory_store


def test_the_export_list_is_sorted_and_complete() -> None:
    assert memory_store.__all__ == sorted(
        memory_store.__all__, key=lambda name: (not name.isupper(), name)
    )
    public = {
        name
        for name, member in vars(memory_store).items()
        if not name.startswith("_") and getattr(member, "__module__", "").startswith("memory_store")
    }
    assert public <= set(memory_store.__all__)
    assert all(hasattr(memory_store, name) for name in memory_store.__all__)


def test_importing_the_store_does_not_import_torch() -> None:
    code = "import sys, memory_store; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
