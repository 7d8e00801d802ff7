"""What the house raises on purpose, as one line of an operator command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from clients.cli.failures import CommandError


@contextmanager
def refusals() -> Iterator[None]:
    """Turn what the house raises on purpose into one line."""
    from memory_model.errors import ModelError
    from memory_store.errors import StoreError

    try:
        yield
    except StoreError as error:
        raise CommandError(f"{error} ({error.code})") from error
    except ModelError as error:
        raise CommandError(str(error)) from error
    except ModuleNotFoundError as error:
        raise CommandError(
            f"{error.name} is not installed; the LLM needs `pip install 'paramem[worker]'`"
        ) from error
