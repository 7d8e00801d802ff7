"""What loading and using a memory model can refuse.

ModelError
├── ModelNotFoundError      no such model: not the default, not a directory, not on the hub
├── BundleError             a bundle that cannot be read or does not fit
│   └── BundleMismatchError     trained for other base weights, tokenizer or shape
└── TextError               a text that cannot become passages
"""

from __future__ import annotations


class ModelError(Exception):
    """Base; the message says what to do."""


class ModelNotFoundError(ModelError):
    pass


class BundleError(ModelError):
    pass


class BundleMismatchError(BundleError):
    pass


class TextError(ModelError):
    pass
