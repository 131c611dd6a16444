"""`ramet run`: the program in a Python file, its text streamed to stdout."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

import ramet as rm
from ramet.cli.program_file import OwnErrors, load_program, parse_arguments
from ramet.cli.terminal import ModelOption, write
from ramet.errors import InvalidRequest
from ramet.lang.context import choose_backend


def run(
    file: Annotated[
        Path, typer.Argument(help="A Python file with an @rm.function program.", show_default=False)
    ],
    model: ModelOption = None,
    arg: Annotated[
        list[str] | None,
        typer.Option(
            "--arg",
            "-a",
            metavar="NAME=VALUE",
            help="An argument of the program; repeat for more. A value that is JSON is taken as such "
            '(3, true, \\["a", "b"], "3" for the string), any other as a string.',
            show_default=False,
        ),
    ] = None,
    function: Annotated[
        str | None,
        typer.Option(
            "--function",
            "-f",
            metavar="NAME",
            help="Which program, if the file has several.",
            show_default=False,
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(help="0 is greedy. What the program's gens say comes first.", show_default=False),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="For gens that set no limit. Default: 128.", show_default=False)
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same text.", show_default=False)] = None,
) -> None:
    """Run the program in a Python file and stream its text.

    The file is loaded like a module: its `if __name__ == "__main__":` part does not run.

    A file that calls rm.set_default_backend keeps that backend; otherwise the model of --model is loaded.

    Example: [bold]ramet run tips.py --arg topic="staying healthy" --temperature 0[/bold]
    """
    program = load_program(file, function)
    arguments = parse_arguments(program, arg or [], file)
    options = {"temperature": temperature, "max_tokens": max_tokens, "seed": seed}
    sampling = {name: value for name, value in options.items() if value is not None}
    for name in sampling:
        if name in arguments:
            raise InvalidRequest(
                f"{program.name} in {file} has a parameter {name}: pass it as --arg {name}=VALUE"
            )
    rm.SamplingParams().replace(**sampling)  # refused before a model is loaded
    with _backend(program, model, file), OwnErrors(file):
        _stream(program, {**arguments, **sampling})


@contextmanager
def _backend(program: rm.Program, model: str | None, file: Path) -> Generator[None, None, None]:
    """Make sure there is a default backend: the file's own, or else an engine."""
    if _has_default_backend(program):
        if model is not None:
            raise InvalidRequest(
                f"{file} sets its own backend, so --model {model} would have no effect: leave it out"
            )
        yield
        return
    with rm.Engine(model) as engine:
        rm.set_default_backend(engine)
        try:
            yield
        finally:
            rm.set_default_backend(None)


def _has_default_backend(program: rm.Program) -> bool:
    try:
        choose_backend(None, program.name)
    except InvalidRequest:
        return False
    return True


def _stream(program: rm.Program, keywords: dict[str, Any]) -> None:
    state = program.run(**keywords, stream=True)
    last = "\n"
    try:
        for piece in state.text_iter():
            write(piece)
            last = piece
    finally:
        if not last.endswith("\n"):
            write("\n")  # an error message begins on a line of its own
