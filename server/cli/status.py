"""Exit statuses: every failure is a line on stderr and a number, never a traceback."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec

import typer

from onnx_attribution.errors import (
    AttributionError,
    InvalidArgument,
    MessageTooLarge,
    ModelError,
    NotDifferentiable,
    NotFound,
    Unsupported,
)

P = ParamSpec("P")
UNUSABLE, REFUSED, FAILED, UNMET = 2, 3, 1, 4
EPILOG = (
    "Exit status: 0 done; 2 an argument or a file cannot be used; 3 refused, the model holds something that has no "
    "derivative; 1 anything else."
)
EPILOG_OF_AUDIT = EPILOG.replace("; 1 anything", "; 4 a requirement is not met; 1 anything")


def guarded(command: Callable[P, None]) -> Callable[P, None]:
    """The command, its exceptions turned into messages and exit statuses."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except AttributionError as error:
            say(error.message)
            raise typer.Exit(status_of(error)) from None
        except (typer.Exit, typer.Abort, BrokenPipeError):
            raise
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] == "onnx_attribution":
                raise_bug(error)
            say(
                f"this command needs {error.name}; install it with: pip install 'onnx-attribution[server]' (or [gpu])"
            )
            raise typer.Exit(UNUSABLE) from None
        except Exception as error:
            raise_bug(error)

    return run


def raise_bug(error: Exception) -> None:
    """An exception that nobody expected: one line, status 1."""
    line = (str(error).strip().splitlines() or ["no message"])[0]
    say(f"unexpected {type(error).__name__}: {line}; this is a bug of onnx-attribution")
    raise typer.Exit(FAILED) from None


def status_of(error: AttributionError) -> int:
    """The exit status that a failure stands for."""
    if isinstance(error, NotDifferentiable):
        return REFUSED
    unusable = (InvalidArgument, NotFound, ModelError, MessageTooLarge, Unsupported)
    return UNUSABLE if isinstance(error, unusable) else FAILED


def say(message: str) -> None:
    """One message on stderr."""
    print(f"onnx-attribution: {message}", file=sys.stderr)
