"""``GET /v1/models``: the one model there is."""

from __future__ import annotations

import time

from fastapi import APIRouter
from starlette.responses import Response

from ramet.server.errors import error_responses
from ramet.server.openai.responses import ModelBody, ModelList, documented, json_response
from ramet.server.service import Service, ServiceDep

router = APIRouter()

_STARTED = int(time.time())


@router.get(
    "/v1/models",
    response_model=None,
    responses={**documented(ModelList), **error_responses()},
    tags=["openai"],
)
async def list_models(service: ServiceDep) -> Response:
    """The models that are served."""
    models: ModelList = {"object": "list", "data": [_model(service)]}
    return json_response(models)


@router.get(
    "/v1/models/{model:path}",
    response_model=None,
    responses={**documented(ModelBody), **error_responses(404)},
    tags=["openai"],
)
async def get_model(model: str, service: ServiceDep) -> Response:
    """One of them, by its name."""
    service.check_model(model)
    return json_response(_model(service))


def _model(service: Service) -> ModelBody:
    card = service.engine.card
    return {
        "id": service.model_name,
        "object": "model",
        "created": _STARTED,
        "owned_by": "ramet",
        "root": card.name,
        "max_model_len": card.max_sequence_tokens,
    }
