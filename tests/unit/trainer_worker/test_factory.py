"""The settings choose the writer."""

from __future__ import annotations

import subprocess
import sys

from memory_store.records import CodeFormat, MemorySpec
from paramem.settings import Settings, WriterKind
from trainer_worker.factory import build_writer


def test_the_dummy_writer_takes_its_shape_from_the_settings() -> None:
    settings = Settings(writer=WriterKind.DUMMY, slots=2, z_dim=16, code_format="int8")
    assert build_writer(settings).spec == MemorySpec("dummy-1", 2, 16, CodeFormat.INT8)


def test_a_worker_with_the_dummy_writer_needs_no_torch() -> None:
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from trainer_worker.process import run_worker\n"
        "from trainer_worker.factory import build_writer\n"
        "from paramem.settings import Settings\n"
        "build_writer(Settings(writer='dummy'))"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
