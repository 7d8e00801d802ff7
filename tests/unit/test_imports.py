"""Every module imports by itself, and the light ones without the heavy packages."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import pytest

PACKAGES = (
    "paramem",
    "memory_store",
    "memory_model",
    "trainer_worker",
    "server",
    "clients",
    "baselines",
)


def modules() -> list[str]:
    found = []
    for name in PACKAGES:
        package = importlib.import_module(name)
        found += [item.name for item in pkgutil.walk_packages(package.__path__, f"{name}.")]
    return found


@pytest.mark.parametrize("name", modules())
def test_the_module_imports(name: str) -> None:
    importlib.import_module(name)


@pytest.mark.parametrize(
    "module",
    ["memory_store.store", "server.app", "server.engine.dummy", "clients", "clients.cli.app"],
)
def test_the_store_the_dummy_server_and_the_clients_need_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False, timeout=60)
    assert done.returncode == 0
