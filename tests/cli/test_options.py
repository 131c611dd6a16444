from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from typing import Annotated, Literal, get_type_hints

import pytest
import typer
from typer.testing import CliRunner

from ramet.cli.options import takes_options
from ramet.config import CacheConfig, EngineConfig, ModelOptions, SchedulerConfig, ServerConfig, option


@dataclass(frozen=True, kw_only=True)
class Inner:
    """How hot it is."""

    degrees: float = option(20.0, "Celsius.")
    kind: Literal["dry", "wet"] = option("dry", "Which heat.")


@dataclass(frozen=True, kw_only=True)
class Outer:
    """The room."""

    inner: Inner = field(default_factory=Inner)
    name: str | None = option(None, "Of the room.", argument=True)
    lights: tuple[str, ...] = option((), "A light.", flag="--light", metavar="COLOUR")
    enable_door: bool = option(True, "Has a door.")
    quiet: bool = option(False, "Makes no noise.")
    hidden: int = 3


@pytest.fixture
def room():
    """``room("--flag", ...)``: the outcome of a command that takes an `Outer`, and what it was given."""
    given = []

    @takes_options
    def command(outer: Outer, times: Annotated[int, typer.Option(help="How often.")] = 1) -> None:
        given.append((outer, times))

    app = typer.Typer(add_completion=False)
    app.command()(command)

    def invoke(*args):
        given.clear()
        outcome = CliRunner().invoke(app, list(args))
        return outcome, (given[0] if given else None)

    return invoke


def test_without_flags_all_is_as_the_dataclass_says(room):
    _, given = room()
    assert given == (Outer(), 1)


def test_a_flag_sets_its_field_wherever_it_is(room):
    flags = ["kitchen", "--degrees", "4.5", "--kind", "wet", "--light", "red", "--light", "blue"]
    _, given = room(*flags, "--disable-door", "--quiet", "--times", "2")
    inner = Inner(degrees=4.5, kind="wet")
    assert given == (
        Outer(inner=inner, name="kitchen", lights=("red", "blue"), enable_door=False, quiet=True),
        2,
    )


def test_help_shows_what_the_fields_say(room):
    outcome, _ = room("--help")
    for text in ("How hot it is.", "Celsius.", "[default: 20.0]", "<dry|wet>", "COLOUR", "--no-quiet"):
        assert text in outcome.output
    assert "hidden" not in outcome.output


@pytest.mark.parametrize("flags", [["--degrees", "warm"], ["--kind", "damp"], ["--hidden", "4"]])
def test_wrong_values_are_wrong_usage(room, flags):
    outcome, given = room(*flags)
    assert outcome.exit_code == 2
    assert given is None


@pytest.mark.parametrize("kind", [ModelOptions, CacheConfig, SchedulerConfig, EngineConfig, ServerConfig])
def test_every_option_of_the_engine_and_the_server_is_a_flag(kind):
    hints = get_type_hints(kind)
    for each in fields(kind):
        assert is_dataclass(hints[each.name]) or each.metadata["help"].endswith("."), each.name


def test_secrets_are_not_printed():
    config = ServerConfig(
        api_keys=("open-sesame",), admin_keys=("open-wheat",), ssl_keyfile_password="open-barley"
    )
    assert "open" not in repr(config)
