"""`ramet`: the commands put together, and what an error or Ctrl-C does to the process.

Exit codes: 0, 1 (a `RametError`, told in one line), 2 (wrong usage), 130 (Ctrl-C).
"""

from __future__ import annotations

import io
import logging
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ramet import __version__
from ramet.cli.bench import bench
from ramet.cli.chat import chat
from ramet.cli.demo import demo
from ramet.cli.info import info
from ramet.cli.models import models
from ramet.cli.run import run
from ramet.cli.serve import serve
from ramet.cli.terminal import errors_console, show_error
from ramet.errors import RametError


class Commands(TyperGroup):
    """Runs a command; an error that Ramet raised on purpose becomes one line and exit code 1."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except RametError as error:
            if ctx.params.get("debug"):
                raise
            show_error(error)
            raise typer.Exit(1) from error


app = typer.Typer(
    name="ramet",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(demo)
app.command()(run)
app.command()(chat)
app.command()(serve)
app.command()(info)
app.add_typer(models, name="models")
app.add_typer(bench, name="bench")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ramet {__version__}")
        raise typer.Exit


@app.callback()
def ramet(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
    debug: Annotated[
        bool,
        typer.Option("--debug", help="Show what happens inside: log messages, and errors with traceback."),
    ] = False,
) -> None:
    """Run language-model programs on an engine made for them.

    [bold]ramet demo[/bold]                         see a program fork, select and stream

    [bold]ramet run tips.py --arg topic=tea[/bold]  run the program in a Python file

    [bold]ramet chat[/bold]                         talk to a model

    [bold]ramet serve[/bold]                        serve a model over HTTP, as OpenAI does

    [bold]ramet models list[/bold]                  which models are on this machine

    [dim]--model takes a GGUF file, a Hugging Face folder or a hub id such as Qwen/Qwen3-0.6B.[/dim]

    [dim]Without it: the bundled SmolLM2-135M, fetched once (about 100 MB).[/dim]
    """
    logging.basicConfig(format="%(name)s: %(message)s")
    logging.getLogger("ramet").setLevel(logging.DEBUG if debug else logging.WARNING)


def main() -> None:
    """The entry point of the ``ramet`` script."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a model writes any character, a terminal may not know it
            stream.reconfigure(errors="replace")
    try:
        app()
    except KeyboardInterrupt:  # outside of a command: typer sees to it inside
        errors_console().print("interrupted", style="dim")
        sys.exit(130)
