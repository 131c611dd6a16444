"""A progress bar for loading a model, on terminals only and only if it takes a while."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

PATIENCE_SECONDS = 0.5


@contextmanager
def loading_progress(name: str) -> Iterator[Callable[[int, int], None]]:
    """A callback ``(tensors done, tensors in all)`` that shows a bar on stderr while the context lasts."""
    console = Console(file=sys.stderr)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    started = time.monotonic()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"Loading {name}", total=None, visible=False)

        def on_progress(done: int, total: int) -> None:
            slow = time.monotonic() - started > PATIENCE_SECONDS
            progress.update(task, completed=done, total=total, visible=slow)

        yield on_progress
