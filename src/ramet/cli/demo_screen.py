"""What `ramet demo` shows while its program runs: the pages of the forks side by side, the ending below.

On a terminal everything is redrawn as tokens arrive; elsewhere each page is written when it is finished,
and the ending token by token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ramet.cli.demo_program import LAST_PAGE

_PAGE_WIDTH = 36  # narrower columns are hard to read
_REFRESH_PER_SECOND = 10


@dataclass(slots=True)
class Page:
    """What a fork has written so far."""

    animal: str
    home: str = ""
    dream: str = ""
    finished: bool = False


class Screen:
    """Told what has arrived; without a console it shows nothing."""

    def __init__(self, console: Console | None, animals: Sequence[str]) -> None:
        self.pages = [Page(animal) for animal in animals]
        self.ending = ""
        self._ending_begun = False
        self._console = console
        self._live: Live | None = None
        if console is not None and console.is_terminal and not console.is_dumb_terminal:
            self._live = Live(
                console=console, get_renderable=self._picture, refresh_per_second=_REFRESH_PER_SECOND
            )

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
        elif self._ending_begun:
            self._write("\n")

    def set_home(self, index: int, home: str) -> None:
        self.pages[index].home = home

    def add_dream(self, index: int, text: str) -> None:
        self.pages[index].dream += text

    def finish(self, index: int) -> None:
        """The page is complete."""
        page = self.pages[index]
        page.finished = True
        if self._live is None:
            self._write(f"  [{page.animal}]  home:{page.home}\n      The {page.animal} dreams{page.dream}\n")

    def add_ending(self, text: str) -> None:
        """A piece of the last page."""
        if not self._ending_begun:
            self._ending_begun = True
            self.add_ending(LAST_PAGE)
        self.ending += text
        if self._live is None:
            self._write(text)

    def _write(self, text: str) -> None:
        """As it is: rich would break the lines of what comes in pieces."""
        if self._console is not None:
            self._console.file.write(text)
            self._console.file.flush()

    def _picture(self) -> RenderableType:
        assert self._console is not None
        num_columns = max(1, min(len(self.pages), self._console.width // _PAGE_WIDTH))
        while len(self.pages) % num_columns:
            num_columns -= 1
        picture = Table.grid(expand=True)
        for _ in range(num_columns):
            picture.add_column(ratio=1)
        panels = [_panel(page) for page in self.pages]
        for start in range(0, len(panels), num_columns):
            picture.add_row(*panels[start : start + num_columns])
        whole = Table.grid(expand=True)
        whole.add_row(picture)
        if self._ending_begun:
            whole.add_row(Panel(Text(self.ending), title="the last page", title_align="left"))
        return whole


def _panel(page: Page) -> Panel:
    text = Text.assemble(("home", "dim"), (page.home, "bold green"))
    if page.home:
        text.append(f"\nThe {page.animal} dreams{page.dream}")
    style = "green" if page.finished else "yellow"
    return Panel(text, title=page.animal, title_align="left", border_style=style)
