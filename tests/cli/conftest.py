"""The command line without a model: `rm.Engine` is an engine that replies as told."""

from __future__ import annotations

import sys

import pytest
from typer.testing import CliRunner

import ramet as rm
from ramet.cli.app import app
from ramet.facade import Facade
from ramet.lang.backends.mock import MockBackend
from ramet.stats import EngineStats


class MockEngine(Facade):
    """What the commands need of an engine, over a `MockBackend`."""

    def __init__(self, backend):
        super().__init__(backend)
        self.is_shut_down = False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.is_shut_down = True

    def stats(self):
        return EngineStats(steps=7)


@pytest.fixture
def use_mock(monkeypatch):
    """``use_mock(replies)``: engines made from now on reply so. Returns the list of them."""

    def use(replies="mock", **options):
        engines = []

        def make_engine(model=None, **engine_options):
            engine = MockEngine(MockBackend(replies, **options))
            engine.model, engine.options = model, engine_options
            engines.append(engine)
            return engine

        monkeypatch.setattr(rm, "Engine", make_engine, raising=False)
        return engines

    return use


@pytest.fixture
def ramet(monkeypatch):
    """``ramet("run", "x.py")``: the outcome of a command, with ``exit_code, stdout, stderr``."""
    monkeypatch.setattr(sys, "path", list(sys.path))  # `run` adds the folder of its file

    def invoke(*args, stdin=None):
        return CliRunner().invoke(app, [str(arg) for arg in args], input=stdin)

    return invoke
