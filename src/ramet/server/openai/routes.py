"""Routes of OpenAI's interface."""

from __future__ import annotations

from fastapi import APIRouter

from ramet.server.openai import chat, completions, models


def openai_routes() -> APIRouter:
    """Chats, completions and the list of models."""
    routes = APIRouter()
    for part in (chat, completions, models):
        routes.include_router(part.router)
    return routes
