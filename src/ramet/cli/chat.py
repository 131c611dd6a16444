"""`ramet chat`: a conversation at the terminal, or with one message per line of a pipe.

The conversation is one prompt that only grows: what the model wrote is kept in the tokens it was written
in, so each turn finds all earlier ones in the engine's cache.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Annotated

import typer

import ramet as rm
from ramet.cli.chat_session import ChatSession
from ramet.cli.terminal import ModelOption, note, show_error, write
from ramet.errors import EngineDead, InvalidRequest, RametError

PROMPT = "you> "


def chat(
    model: ModelOption = None,
    system: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What the model is told first.", show_default=False)
    ] = None,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.7,
    top_p: Annotated[float, typer.Option(help="Keep the likeliest tokens up to this probability.")] = 0.9,
    max_tokens: Annotated[int, typer.Option(help="The longest answer.")] = 256,
    seed: Annotated[int | None, typer.Option(help="Same seed, same answers.", show_default=False)] = None,
    url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Talk to a server's model: of ramet serve.", show_default=False),
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="What the server wants.", show_default=False)
    ] = None,
) -> None:
    """Talk to a model; answers are streamed, and earlier turns are not computed again.

    Ctrl-C stops the answer that is being written, Ctrl-D leaves, /help shows what else there is.

    From a pipe, each line is a message, and only the answers go to stdout.

    Example: [bold]ramet chat --system "You are a pirate." --temperature 0.8[/bold]
    """
    sampling = rm.SamplingParams(temperature=temperature, top_p=top_p, max_tokens=max_tokens, seed=seed)
    if url is not None and model is not None:
        raise InvalidRequest("--url and --model: the server has its model already")
    with rm.Engine(model) if url is None else rm.Endpoint(url, api_key) as engine:
        session = ChatSession(engine, sampling, system, write=write, note=note, read_stats=engine.stats)
        if sys.stdin.isatty():
            note("Ask away. Ctrl-C stops an answer, Ctrl-D leaves, /help shows the commands.")
            _converse(session)
        else:
            _answer_lines(session)


def _converse(session: ChatSession) -> None:
    """Until Ctrl-D, /exit, or Ctrl-C twice in a row."""
    with contextlib.suppress(ImportError):  # not on Windows, whose terminals can do it themselves
        import readline  # noqa: F401  line editing in input()

    interrupted = False
    while not session.ended:
        try:
            line = input(PROMPT)
            interrupted = False
        except EOFError:
            write("\n")
            return
        except KeyboardInterrupt:
            write("\n")
            if interrupted:
                raise
            interrupted = True
            note("Ctrl-C again, Ctrl-D or /exit leaves.")
            continue
        _take(session, line)


def _answer_lines(session: ChatSession) -> None:
    """One message per line; a message that fails makes the exit code 1, after the others."""
    failed = False
    while not session.ended and (line := sys.stdin.readline()):
        failed |= not _take(session, line.removesuffix("\n"))
    if failed:
        raise typer.Exit(1)


def _take(session: ChatSession, line: str) -> bool:
    """Pass a line on; whether that worked. The conversation survives anything but the engine's death."""
    try:
        session.take(line)
    except EngineDead:
        raise
    except RametError as error:
        show_error(error)
        return False
    return True
