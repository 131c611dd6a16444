"""Where the commands write: stdout for results, stderr for everything else."""

from __future__ import annotations

import sys
from typing import Annotated, TypeAlias

import typer
from rich.console import Console
from rich.text import Text

ModelOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help="GGUF file, Hugging Face folder or hub id. Default: the bundled SmolLM2-135M.",
        show_default=False,
    ),
]


def errors_console() -> Console:
    """A console on what is stderr now (a test may have replaced it)."""
    return Console(file=sys.stderr, highlight=False, soft_wrap=True)


def show_error(error: BaseException) -> None:
    """One red line, however many the message has."""
    message = " ".join(str(error).split()) or type(error).__name__
    errors_console().print(Text.assemble(("error:", "bold red"), " ", message))


def warn(text: str) -> None:
    """A yellow line on stderr."""
    errors_console().print(Text.assemble(("warning:", "bold yellow"), " ", text))


def note(text: str) -> None:
    """A dim line on stderr."""
    errors_console().print(Text(text, style="dim"))


def write(text: str) -> None:
    """Text on stdout, at once and as it is."""
    sys.stdout.write(text)
    sys.stdout.flush()
