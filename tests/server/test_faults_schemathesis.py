"""Requests drawn from the server's own OpenAPI document, right and wrong ones: no answer is undocumented."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from pieces import random_backend
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance

from ramet.config import ServerConfig
from ramet.server.app import create_app

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance]


@pytest.fixture(scope="module")
def engine():
    backend = random_backend(num_slots=128)  # few: who asks for many tokens gets few
    yield backend
    backend.shutdown()


@pytest.fixture  # one for each test: an application that has been shut down answers no more
def document(engine):
    app = create_app(engine, ServerConfig(max_prompts=4, request_seconds=20))
    return schemathesis.openapi.from_asgi("/openapi.json", app)


def ask(document, examples, *, at_random) -> int:
    """Ask every route so many times rightly and, where it takes a body, wrongly; how often in all."""
    asked = 0
    for operation in (result.ok() for result in document.get_all_operations()):
        for mode in list(GenerationMode) if operation.body else [GenerationMode.POSITIVE]:

            @settings(
                max_examples=examples,
                derandomize=not at_random,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
            )
            @given(operation.as_strategy(generation_mode=mode))
            def one(case):
                nonlocal asked
                asked += 1
                case.call_and_validate(checks=CHECKS)

            one()
    return asked


def test_a_hundred_requests(document):
    assert ask(document, 4, at_random=False) > 80


@pytest.mark.slow
def test_thousands_of_requests(document):
    assert ask(document, 150, at_random=True) >= 2000
