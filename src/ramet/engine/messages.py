"""What passes between the text side and the engine core.

The same messages go to a core in a thread and, serialised, to one in a process of its own. What
comes back is `ramet.scheduler.request.RequestOutput` for requests and `Reply` for calls.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from ramet.sampling_params import SamplingParams
from ramet.scheduler.request import RequestOutput
from ramet.stats import EngineStats


class AddRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Continue ``token_ids``, or score its end: the tokens from position ``score_from``."""

    request_id: str
    token_ids: list[int]
    params: SamplingParams
    seed: int
    namespace: str = ""
    client_id: str = ""
    score_from: int | None = None


class Abort(msgspec.Struct, frozen=True):
    """End requests now. Those that have finished are ignored."""

    request_ids: list[str]


class FlushCache(msgspec.Struct, frozen=True):
    """Drop all cached KV that no request holds."""

    call_id: int


class GetStats(msgspec.Struct, frozen=True):
    """Ask for the counters."""

    call_id: int


class Shutdown(msgspec.Struct, frozen=True):
    """Abort everything and stop the core."""


class Reply(msgspec.Struct, frozen=True):
    """The answer to a call. A flush answers whether every slot is free now."""

    call_id: int
    value: EngineStats | bool


Message: TypeAlias = AddRequest | Abort | FlushCache | GetStats | Shutdown
Output: TypeAlias = RequestOutput | Reply
