"""What the server needs of an engine: the `Backend` seam, and the little around it. Imports no engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ramet.backend import Backend
from ramet.errors import EngineDead
from ramet.model_card import ModelCard
from ramet.stats import EngineStats
from ramet.tokenizer.tokenizer import Tokenizer
from ramet.types import Prompt


class ServedEngine(Backend, Protocol):
    """An engine that a server hands requests to."""

    @property
    def card(self) -> ModelCard: ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def is_alive(self) -> bool:
        """Whether it takes requests."""
        ...

    def add_death_callback(self, callback: Callable[[EngineDead], None]) -> None:
        """Call this once, from any thread, if the engine dies by itself."""
        ...

    async def encode(self, prompt: Prompt) -> list[int]:
        """The prompt's token ids, as a request with it would have them; long ones do not hold the loop up.

        Raises:
            InvalidRequest: it has none, or more than a sequence may have.
        """
        ...

    async def stats(self) -> EngineStats: ...

    async def flush_cache(self) -> bool:
        """Drop all cached KV that no request holds; true if every slot is free now."""
        ...
