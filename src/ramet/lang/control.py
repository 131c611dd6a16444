"""What programs may ask of a backend besides text: what it is, and to forget what it has cached."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol, runtime_checkable

from ramet._version import __version__
from ramet.backend import Backend
from ramet.errors import InvalidRequest, UnsupportedFeature
from ramet.event_loop import run_sync
from ramet.lang.context import find_backend
from ramet.model_card import ModelCard
from ramet.stats import EngineStats


@runtime_checkable
class _Caching(Protocol):
    async def flush_cache(self) -> bool: ...


@runtime_checkable
class _Remote(Protocol):
    async def server_info(self) -> dict[str, Any]: ...


@runtime_checkable
class _Local(Protocol):
    @property
    def card(self) -> ModelCard: ...

    async def stats(self) -> EngineStats: ...


def flush_cache(backend: Any = None) -> bool:
    """Drop all cached KV of an engine or a server, the default one unless given; true if every slot is free.

    Raises:
        InvalidRequest: there is no backend, or a server whose requests are running.
        UnsupportedFeature: it has no cache.
    """
    chosen = _chosen(backend)
    if not isinstance(chosen, _Caching):
        raise UnsupportedFeature(f"{type(chosen).__name__} has no cache to flush")
    return run_sync(chosen.flush_cache())


def get_server_info(backend: Any = None) -> dict[str, Any]:
    """What an engine or a server says about itself: ``version``, ``model`` and ``stats`` at least.

    Raises:
        InvalidRequest: there is no backend.
        UnsupportedFeature: it says nothing about itself.
    """
    chosen = _chosen(backend)
    if isinstance(chosen, _Remote):
        return run_sync(chosen.server_info())
    if isinstance(chosen, _Local):
        return {
            "version": __version__,
            "model": dataclasses.asdict(chosen.card),
            "stats": dataclasses.asdict(run_sync(chosen.stats())),
        }
    raise UnsupportedFeature(f"{type(chosen).__name__} says nothing about itself")


def _chosen(given: object) -> Backend:
    backend = find_backend(given)
    if backend is None:
        raise InvalidRequest("there is no backend: pass one, or set one with set_default_backend(engine)")
    return backend
