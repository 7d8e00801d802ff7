"""What the commands that measure a bundle without a server have in common."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from memory_model.runtime import SHIPPED
from paramem.settings import DEFAULT_MODEL


def bundle_parser(description: str) -> argparse.ArgumentParser:
    """Takes a bundle (the shipped one by default), its model and the folder of question sets."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--bundle", type=Path, default=SHIPPED / DEFAULT_MODEL)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--data", type=Path, required=True)
    return parser


def say(text: str) -> None:
    """A line at once, so that a long run shows what it has."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
