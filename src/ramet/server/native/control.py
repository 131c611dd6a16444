"""Routes of the native interface for those who run a server, or want to know what runs there."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from ramet._version import __version__
from ramet.errors import EngineDead, InvalidRequest
from ramet.sampling_params import SamplingParams
from ramet.server.bodies import BodyRoute
from ramet.server.calls import Call
from ramet.server.errors import error_body, error_response, error_responses
from ramet.server.metrics import PATIENCE_SECONDS
from ramet.server.native.bodies import AbortBody
from ramet.server.service import Service, ServiceDep
from ramet.types import MAX_PRIORITY, Prompt, RequestOptions, Tokens

HEALTH_SECONDS = 20.0
"""How long a healthy server may take for one token, whatever else it does."""


class Health(BaseModel):
    status: str


class Flushed(BaseModel):
    """``success``: every slot of the KV pool is free now."""

    success: bool


class Aborted(BaseModel):
    """How many requests were ended."""

    aborted: int


def control_routes() -> APIRouter:
    router = APIRouter(route_class=BodyRoute)

    @router.get("/health", response_model=Health, responses=error_responses())
    async def health(service: ServiceDep) -> Response | Health:
        """Whether the server takes requests."""
        return _sickness(service) or Health(status="ok")

    @router.get("/health_generate", response_model=Health, responses=error_responses())
    async def health_generate(request: Request, service: ServiceDep) -> Response | Health:
        """Whether the engine generates a token in reasonable time."""

        async def work(call: Call) -> None:
            params = SamplingParams(max_tokens=1, temperature=0.0)
            await service.engine.generate(Prompt((Tokens((0,)),)), params, options=call.options)

        options = RequestOptions(client_id=request.state.client_id, priority=-MAX_PRIORITY)
        try:
            async with asyncio.timeout(HEALTH_SECONDS):
                await service.answer(request, options, work)
        except TimeoutError:
            return _unavailable(f"the engine has generated no token in {HEALTH_SECONDS:g} s", "unhealthy")
        return Health(status="ok")

    @router.get("/flush_cache", responses=error_responses())
    @router.post("/flush_cache", responses=error_responses())
    async def flush_cache(request: Request, service: ServiceDep) -> Flushed:
        """Drop all cached KV; leases end. Refused while requests run; takes an admin key if there is one."""
        service.check_admin(request, "flushing the cache")
        if len(service.calls):
            raise InvalidRequest(
                f"the cache is in use by {len(service.calls)} requests; flush it when none run"
            )
        return Flushed(success=await service.engine.flush_cache())

    @router.post("/abort_request", responses=error_responses())
    async def abort_request(body: AbortBody, request: Request, service: ServiceDep) -> Aborted:
        """End a request, or all, of the client whose key it is."""
        if (body.rid is None) == (not body.abort_all):
            raise InvalidRequest("give one of rid and abort_all")
        calls = [
            call
            for call in service.calls.of(request.state.client_id)
            if body.abort_all or call.request_id == body.rid
        ]
        for call in calls:
            call.abort()
        return Aborted(aborted=len(calls))

    @router.get("/get_model_info", responses=error_responses())
    @router.get("/model_info", responses=error_responses())
    async def model_info(service: ServiceDep) -> dict[str, Any]:
        """The model: its limits, and how it writes conversations."""
        return _model_info(service)

    @router.get("/get_server_info", responses=error_responses())
    @router.get("/server_info", responses=error_responses())
    async def server_info(service: ServiceDep) -> dict[str, Any]:
        """The server: its version, model, limits and counters. An engine that does not answer has none."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                stats = dataclasses.asdict(await service.engine.stats())
        except (EngineDead, TimeoutError):
            stats = None
        config = service.config
        return {
            "version": __version__,
            "status": "ok" if service.engine.is_alive and not service.gate.draining else "stopping",
            "model": _model_info(service),
            "requests_in_flight": len(service.calls),
            "limits": {
                name: getattr(config, name)
                for name in (
                    "max_requests",
                    "max_prompts",
                    "max_body_bytes",
                    "request_seconds",
                    "max_lease_seconds",
                )
            },
            "stats": stats,
        }

    return router


def _model_info(service: Service) -> dict[str, Any]:
    engine = service.engine
    template = engine.tokenizer.chat_template
    return {
        "model_path": engine.card.path,
        "served_model_name": service.model_name,
        "is_generation": True,
        **dataclasses.asdict(engine.card),
        "chat_template": None if template is None else template.source,
        "bos_token": "" if template is None else template.bos_token,
        "eos_token": "" if template is None else template.eos_token,
    }


def _sickness(service: Service) -> Response | None:
    if not service.engine.is_alive:
        return _unavailable("the engine has stopped", "engine_dead")
    if service.gate.draining:
        return _unavailable("the server is stopping", "stopping")
    return None


def _unavailable(message: str, code: str) -> Response:
    return error_response(503, error_body(message, "server_error", code))
