"""Running many programs at the same time, and the prefix their prompts share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from ramet.errors import InvalidRequest
from ramet.event_loop import on_background_thread
from ramet.lang.interpreter import Run, cause_of, plain_text
from ramet.types import Generated, Part, Prompt, Text

if TYPE_CHECKING:
    from ramet.lang.program import Launch

logger = logging.getLogger(__name__)

BATCH_CHUNK = 200  # items that an iterating batch runs at a time
MAX_AUTO_THREADS = 96
MIN_HINT_CHARACTERS = 64
_MAX_LISTED_FAILURES = 20


def num_workers(num_threads: int | Literal["auto"]) -> int:
    """The most programs to run at a time."""
    if num_threads == "auto":
        return MAX_AUTO_THREADS
    if isinstance(num_threads, bool) or not isinstance(num_threads, int) or num_threads < 1:
        raise InvalidRequest(f'num_threads must be "auto" or at least 1, got {num_threads!r}')
    return num_threads


def run_all(launches: Sequence[Launch], workers: int, first: int, progress: str | None) -> None:
    """Run launches to their ends, ``workers`` at a time. ``first`` is the index of the first item.

    If this is interrupted, all of them are cancelled.
    """
    if on_background_thread():
        raise InvalidRequest("run_batch would block the event loop; call it from a plain thread")
    if not launches:
        return
    pool = ThreadPoolExecutor(min(workers, len(launches)), thread_name_prefix="ramet-batch")
    done = 0
    try:
        with _progress_bar(progress, len(launches)) as advance:
            for future in as_completed([pool.submit(launch.complete) for launch in launches]):
                future.result()
                done += 1
                advance()
    finally:
        if done < len(launches):
            for launch in launches:
                launch.run.cancel()
        pool.shutdown(wait=False, cancel_futures=True)
    _report_failures(launches, first)


def _report_failures(launches: Sequence[Launch], first: int) -> None:
    failures = [
        (index, error)
        for index, launch in enumerate(launches, first)
        if (error := launch.body.error or launch.stream.error) is not None
    ]
    if failures:
        listed = ", ".join(str(index) for index, _ in failures[:_MAX_LISTED_FAILURES])
        more = ", …" if len(failures) > _MAX_LISTED_FAILURES else ""
        logger.warning(
            "%d of %d items of run_batch failed: %s%s (item %d: %s)",
            *(len(failures), len(launches), listed, more, failures[0][0], cause_of(failures[0][1])),
        )


@contextmanager
def _progress_bar(label: str | None, total: int) -> Iterator[Callable[[], None]]:
    if label is None:
        yield lambda: None
        return
    # imported here because it would double the time that `import ramet` takes
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(label, total=total)
        yield lambda: progress.advance(task)


class SharedPrefix:
    """Announces what the programs of a batch begin with.

    The first prompts that two of the programs send are compared: what they have in common does not
    depend on their arguments (or not on what differs between these two). It is sent ahead of the second
    request; nobody waits. Used on the event loop only.
    """

    def __init__(self) -> None:
        self._first: tuple[Run, Prompt] | None = None
        self._compared = False

    def observe(self, run: Run, prompt: Prompt) -> None:
        """A program is about to send this prompt."""
        if self._compared:
            return
        if self._first is None:
            self._first = (run, prompt)
        elif self._first[0] is not run:
            prefix = common_prefix(self._first[1], prompt)
            self._compared, self._first = True, None  # the run leads here: keeping it would make a cycle
            if len(plain_text(prefix)) > MIN_HINT_CHARACTERS:
                run.hint_prefix(prefix)


def common_prefix(one: Prompt, other: Prompt) -> Prompt:
    """What two prompts begin with, up to the first text a model wrote."""
    parts: list[Part] = []
    for left, right in zip(one.parts, other.parts, strict=False):
        if isinstance(left, Generated):
            break
        if left != right:
            if isinstance(left, Text) and isinstance(right, Text):
                same = 0
                while left.text[same : same + 1] == right.text[same : same + 1] != "":
                    same += 1
                parts.append(Text(left.text[:same]))
            break
        parts.append(left)
    return Prompt().append(*parts)
