"""What passes between the text side and the engine core, and how.

The same messages go to a core in a thread (`ramet.engine.core_thread`) and, serialised
(`ramet.engine.codec`), to one in a process of its own (`ramet.engine.core_process`). What comes back is
`ramet.scheduler.request.RequestOutput` for requests and `Reply` for calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

import msgspec

from ramet.errors import EngineDead
from ramet.sampling_params import SamplingParams
from ramet.scheduler.request import RequestOutput
from ramet.stats import EngineStats


class AddRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag=True):
    """Continue ``token_ids``, or score its end: the tokens from position ``score_from``.

    Requests that are sent together are accepted or refused together. ``lease_seconds`` is for a request that
    generates nothing: its KV is not dropped for so long.
    """

    request_id: str
    token_ids: list[int]
    params: SamplingParams
    seed: int
    namespace: str = ""
    client_id: str = ""
    priority: int = 0
    score_from: int | None = None
    lease_seconds: float = 0.0


class Abort(msgspec.Struct, frozen=True, tag=True):
    """End requests now. Those that have finished are ignored."""

    request_ids: list[str]


class FlushCache(msgspec.Struct, frozen=True, tag=True):
    """Drop all cached KV that no request holds; leases end."""

    call_id: int


class GetStats(msgspec.Struct, frozen=True, tag=True):
    """Ask for the counters."""

    call_id: int


class Compiled(msgspec.Struct, frozen=True, tag=True):
    """A grammar is compiled that requests may be waiting for. The core's loop tells the core."""


class Shutdown(msgspec.Struct, frozen=True, tag=True):
    """Abort everything and stop the core."""


class Reply(msgspec.Struct, frozen=True, tag=True):
    """The answer to a call. A flush answers whether every slot is free now."""

    call_id: int
    value: EngineStats | bool


Message: TypeAlias = AddRequest | Abort | FlushCache | GetStats | Compiled | Shutdown
Output: TypeAlias = RequestOutput | Reply

OnOutputs: TypeAlias = Callable[[Sequence[Output]], None]
OnDeath: TypeAlias = Callable[[EngineDead], None]


class RunningCore(Protocol):
    """An engine core somewhere: in a thread, or in a process of its own."""

    def start(self, on_outputs: OnOutputs, on_death: OnDeath) -> None:
        """Deliver outputs from now on, on one thread; call ``on_death`` at most once, if the core fails."""
        ...

    def send(self, *messages: Message) -> None:
        """Queue messages for the next step, all of them for the same one. May be called from any thread.

        Raises:
            InvalidRequest: a value that cannot be sent.
        """
        ...

    def join(self) -> None:
        """Wait until the core has ended after a `Shutdown`, or by itself."""
        ...
