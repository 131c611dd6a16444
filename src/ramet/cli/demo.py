"""`ramet demo`: one program on a real model, with and without reuse, and the difference in figures."""

from __future__ import annotations

import asyncio
import inspect
import json
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table

import ramet as rm
from ramet.cli.demo_program import ANIMALS, bedtime_book
from ramet.cli.demo_screen import Screen
from ramet.cli.metered import MeteredBackend
from ramet.cli.terminal import ModelOption
from ramet.store import BUNDLED

SAMPLING = {"temperature": 0, "repetition_penalty": 1.1}


@dataclass(frozen=True, slots=True)
class Performance:
    """One run of the program: what it wrote, and what that took.

    ``tokens_asked`` and ``tokens_computed`` are of prompts; ``tokens_generated`` come on top of them.
    """

    text: str
    calls: int
    tokens_asked: int
    tokens_computed: int
    tokens_generated: int
    steps: int
    seconds: float

    @property
    def reuse(self) -> float:
        """The share of the prompt tokens asked for that was not computed."""
        return 1 - self.tokens_computed / max(self.tokens_asked, 1)


def demo(
    model: ModelOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the texts and figures as JSON, nothing else.")
    ] = False,
) -> None:
    """Watch a program fork, select and stream on a real model, and see what reuse saves.

    The program is run twice, with the prefix cache and without it. Both times it writes the same text.

    Example: [bold]ramet demo[/bold]
    """
    name = model or f"{BUNDLED.name}, the bundled model"
    if as_json:
        with_reuse, without = _compare(model, name, None)
        typer.echo(json.dumps(_as_json(name, with_reuse, without), ensure_ascii=False, indent=2))
        return
    console = Console(highlight=False)
    console.print(
        f"One LM program on a real model ({name}): it [bold]forks[/bold] into {len(ANIMALS)} branches "
        "that share one prompt, [bold]selects[/bold] among choices in each, and [bold]streams[/bold] "
        "what the model writes."
    )
    _show_program(console)
    with_reuse, without = _compare(model, name, console)
    console.print()
    console.print(_table(with_reuse, without))
    console.print()
    if with_reuse.text == without.text:
        console.print(
            "Both runs wrote [bold green]exactly the same text[/bold green]: "
            "reuse changes the work, not the result."
        )
    else:
        console.print(
            "[bold red]The two runs wrote different texts.[/bold red] "
            "On a CPU in float32 that is a bug; please report it."
        )


def _compare(model: str | None, name: str, console: Console | None) -> tuple[Performance, Performance]:
    """One engine after the other, so that memory holds one model at a time."""
    with _status(console, f"Loading {name} …"):
        engine = rm.Engine(model)
    with engine, Screen(console, ANIMALS) as screen:
        with_reuse = _perform(engine, screen, isolated=False)
    with (
        _status(console, "The same program once more, every prompt computed in full …"),
        rm.Engine(model, enable_prefix_cache=False) as engine,
    ):
        without = _perform(engine, Screen(None, ANIMALS), isolated=True)
    return with_reuse, without


def _perform(engine: rm.Engine, screen: Screen, *, isolated: bool) -> Performance:
    backend = MeteredBackend(engine.backend, isolated=isolated)
    before = engine.stats()
    started = time.monotonic()
    state = bedtime_book.run(ANIMALS, backend=backend, stream=True, **SAMPLING)
    asyncio.run(_watch(state, screen))
    text = state.text()
    seconds = time.monotonic() - started
    after = engine.stats()
    return Performance(
        text=text,
        calls=backend.calls,
        tokens_asked=backend.tokens_asked,
        tokens_computed=after.computed_tokens - before.computed_tokens,
        tokens_generated=after.generated_tokens - before.generated_tokens,
        steps=after.steps - before.steps,
        seconds=seconds,
    )


async def _watch(state: rm.ProgramState, screen: Screen) -> None:
    """Show everything as it comes: the forks at the same time, then the ending."""

    async def watch_page(index: int, page: rm.ProgramState) -> None:
        screen.set_home(index, await page.aget("home"))
        async for piece in page.text_async_iter("dream"):
            screen.add_dream(index, piece)
        screen.finish(index)

    pages = await state.aget("pages")
    await asyncio.gather(*(watch_page(index, page) for index, page in enumerate(pages)))
    async for piece in state.text_async_iter("ending"):
        screen.add_ending(piece)


# ----------------------------------------------------------------------------------------------- showing


@contextmanager
def _status(console: Console | None, text: str) -> Generator[None, None, None]:
    """A spinner on a terminal, else a line."""
    if console is None:
        yield
    elif console.is_terminal:
        with console.status(text):
            yield
    else:
        console.print(text)
        yield


def _show_program(console: Console) -> None:
    source = inspect.getsource(bedtime_book)
    console.print()
    console.print(Syntax(source, "python", background_color="default", word_wrap=True))


def _table(with_reuse: Performance, without: Performance) -> Table:
    table = Table(show_edge=False, pad_edge=False, header_style="bold")
    table.add_column("")
    table.add_column("with reuse", justify="right", style="green")
    table.add_column("without", justify="right")
    rows: list[tuple[str, str, str]] = [
        ("requests", f"{with_reuse.calls:,}", f"{without.calls:,}"),
        ("prompt tokens asked for", f"{with_reuse.tokens_asked:,}", f"{without.tokens_asked:,}"),
        ("prompt tokens computed", f"{with_reuse.tokens_computed:,}", f"{without.tokens_computed:,}"),
        ("reuse", f"{with_reuse.reuse:.0%}", f"{without.reuse:.0%}"),
        ("tokens generated", f"{with_reuse.tokens_generated:,}", f"{without.tokens_generated:,}"),
        ("steps of the engine", f"{with_reuse.steps:,}", f"{without.steps:,}"),
        ("seconds", f"{with_reuse.seconds:.1f}", f"{without.seconds:.1f}"),
    ]
    for row in rows:
        table.add_row(*row)
    return table


def _as_json(name: str, with_reuse: Performance, without: Performance) -> dict[str, Any]:
    figures = {"with_reuse": with_reuse, "without_reuse": without}
    return {
        "model": name,
        "text": with_reuse.text,
        "identical": with_reuse.text == without.text,
        **{key: {**_figures(run), "reuse": round(run.reuse, 4)} for key, run in figures.items()},
    }


def _figures(run: Performance) -> dict[str, Any]:
    figures = asdict(run)
    del figures["text"]
    return {**figures, "seconds": round(run.seconds, 3)}
