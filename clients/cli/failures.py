"""How a command fails: one line on stderr that says what to do, and an exit code.

0 done · 1 not (all) done · 2 wrong usage or settings · 130 interrupted
"""

from __future__ import annotations

import os
from typing import Any

import typer
from pydantic import ValidationError
from typer.core import TyperGroup

from clients.cli.console import complain
from clients.errors import ParamemError
from paramem.settings import PREFIX, UnknownSettingError

FAILED = 1
USAGE = 2
INTERRUPTED = 130


class CommandError(Exception):
    """Ends a command with this message as its only line."""

    def __init__(self, message: str, *, exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class OneLineErrors(TyperGroup):
    """A command group none of whose commands ends in a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except CommandError as error:
            _end(str(error), error.exit_code, error)
        except ParamemError as error:
            _end(str(error), FAILED, error)
        except UnknownSettingError as error:
            _end(str(error), USAGE, error)
        except ValidationError as error:
            _end(describe_invalid(error), USAGE, error)
        except KeyboardInterrupt as error:
            _end("interrupted", INTERRUPTED, error)
        except BrokenPipeError as error:
            # The reader (`| head`) has what it wanted; flushing at exit must not fail either.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            raise typer.Exit(0) from error
        except OSError as error:
            _end(str(error), FAILED, error)


def describe_invalid(error: ValidationError) -> str:
    """The first wrong value; a setting by the name of its environment variable."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    is_setting = error.title in ("Settings", "ClientSettings")
    name = f"{PREFIX}{field.upper()}" if is_setting else field
    given = "" if "key" in field else f", not {first['input']!r}"
    return f"{name}: {first['msg']}{given}"


def _end(message: str, exit_code: int, cause: BaseException) -> None:
    complain(f"error: {message}")
    raise typer.Exit(exit_code) from cause
