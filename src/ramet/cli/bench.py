"""`ramet bench serve`: load for an OpenAI-compatible server, ours or another, and what came of it."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import ramet as rm
from ramet.cli.bench_client import Answer, Client
from ramet.cli.bench_load import Load
from ramet.cli.bench_run import Run, Summary, run_load, summarize
from ramet.cli.options import takes_options
from ramet.cli.terminal import errors_console, warn

bench = typer.Typer(name="bench", no_args_is_help=True, help="Measure.")


@bench.callback()
def _group() -> None:
    """Measure."""


@bench.command("serve")
@takes_options
def bench_serve(
    load: Load,
    url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="A server that runs already, any that speaks as OpenAI does.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            show_default=False,
            help="With --url, the name to ask for (default: the first it lists); else, the model to serve.",
        ),
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="Sent with every request.", show_default=False)
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Ask for chat completions.")] = False,
    stream: Annotated[bool, typer.Option(help="Ask for streams.")] = True,
    timeout: Annotated[float, typer.Option(help="Longest a request may take, in seconds.")] = 600.0,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write the figures there, too.", show_default=False),
    ] = None,
) -> None:
    """Send requests to a server and print throughput and latencies.

    Every stream is checked: whole, in order, and no longer than its tokens. What fails is counted by kind.

    Example: [bold]ramet bench serve --url http://127.0.0.1:8000 --concurrency 64 --requests 500[/bold]
    """
    with ExitStack() as stack:
        if url is None:
            url = stack.enter_context(rm.Runtime(model)).url
            model = None
        client = Client(url, api_key, chat=chat, stream=stream, seconds=timeout)
        run = asyncio.run(_measure(client, model, load))
    summary = summarize(run)
    show(summary)
    if json_file is not None:
        json_file.write_text(json.dumps({"url": url, **summary.to_dict()}, indent=2) + "\n", encoding="utf-8")
    if summary.client_share > 0.8:
        warn(f"the client took {summary.client_share:.0%} of a core: it may be what was measured")
    if summary.completed == 0:
        raise typer.Exit(1)


async def _measure(client: Client, model: str | None, load: Load) -> Run:
    name = model or await client.model()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = errors_console()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(name, total=load.requests)

        def on_answer(answer: Answer) -> None:
            progress.advance(task)

        return await run_load(client, name, load, on_answer)


def show(summary: Summary) -> None:
    """The figures as tables on stdout."""
    console = Console(file=sys.stdout, highlight=False)
    totals = Table(show_header=False, box=None, pad_edge=False)
    totals.add_column(style="dim")
    totals.add_column(justify="right")
    share = summary.cached_tokens / summary.prompt_tokens if summary.prompt_tokens else 0.0
    for name, value in (
        ("requests completed", f"{summary.completed:,} of {summary.requests:,}"),
        ("seconds", f"{summary.seconds:.2f}"),
        ("requests/s", f"{summary.requests_per_second:.2f}"),
        ("output tokens/s", f"{summary.output_tokens_per_second:,.1f}"),
        ("all tokens/s", f"{summary.total_tokens_per_second:,.1f}"),
        ("prompt tokens", f"{summary.prompt_tokens:,}"),
        ("  of them cached", f"{share:.1%}"),
        ("output tokens", f"{summary.output_tokens:,}"),
        ("client, of one core", f"{summary.client_share:.0%}"),
    ):
        totals.add_row(name, value)
    console.print(totals)
    times = Table(box=None, pad_edge=False)
    times.add_column("milliseconds", style="dim")
    for percent in ("p50", "p90", "p99"):
        times.add_column(percent, justify="right")
    for name, values in (
        ("time to first token", summary.time_to_first_token),
        ("between chunks", summary.inter_token),
        ("whole request", summary.end_to_end),
    ):
        times.add_row(name, *(f"{values[p] * 1000:,.1f}" if values else "-" for p in ("p50", "p90", "p99")))
    console.print()
    console.print(times)
    for reason, count in sorted(summary.errors.items(), key=lambda item: -item[1]):
        console.print(f"failed: {count:,} x {reason}", style="red", markup=False)
