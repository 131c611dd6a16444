"""`ramet models`: what lies in the model cache."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ramet.cli.terminal import note
from ramet.errors import ModelNotFound
from ramet.store import BUNDLED, list_models, remove_model, resolve_model

models = typer.Typer(no_args_is_help=True, help="List, fetch and remove models.")

_MODEL_HELP = "GGUF file, Hugging Face folder or hub id; the bundled model if left out."
ModelArgument = Annotated[str | None, typer.Argument(metavar="[MODEL]", help=_MODEL_HELP, show_default=False)]


@models.command("list")
def list_stored() -> None:
    """Show the models on this machine: name, size and place.

    Example: [bold]ramet models list[/bold]
    """
    stored = list_models()
    if not stored:
        note("no models yet; `ramet models pull` fetches the bundled one")
        return
    width = max(len(model.name) for model in stored)
    for model in stored:
        typer.echo(f"{model.name:<{width}}  {_size(model.size):>8}  {model.path}")


@models.command()
def pull(model: ModelArgument = None) -> None:
    """Fetch a model, check it, and print where it lies. Does nothing if it is there.

    Examples: [bold]ramet models pull[/bold], [bold]ramet models pull Qwen/Qwen3-0.6B[/bold]
    """
    typer.echo(resolve_model(model))


@models.command()
def path(model: ModelArgument = None) -> None:
    """Print where a model lies. Fetches nothing.

    Example: [bold]ramet models path[/bold]
    """
    names = {stored.name for stored in list_models()}
    if model is None or model in ("bundled", BUNDLED.name):
        if "bundled" not in names:
            raise ModelNotFound("the bundled model has not been fetched yet; `ramet models pull` does it")
    elif model.partition(":")[0] not in names and not Path(model).expanduser().exists():
        raise ModelNotFound(
            f"{model!r} is neither a path nor in the model cache; "
            f"if it is a hub id, `ramet models pull {model}` fetches it"
        )
    typer.echo(resolve_model(model))


@models.command()
def remove(
    name: Annotated[str, typer.Argument(help="A name that `ramet models list` shows.", show_default=False)],
) -> None:
    """Delete a model from the cache.

    Example: [bold]ramet models remove bundled[/bold]
    """
    removed = remove_model(name)
    typer.echo(f"removed {removed.name} ({_size(removed.size)}) from {removed.path}")


def _size(num_bytes: int) -> str:
    """A size as people read it, in powers of ten."""
    value, unit = float(num_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if value >= 99.5 or unit == "B" else f"{value:.1f} {unit}"
