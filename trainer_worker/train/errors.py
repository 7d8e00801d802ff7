"""What can end a training run."""

from __future__ import annotations


class TrainingError(Exception):
    """Training cannot start or go on; the message says why and what to do."""
