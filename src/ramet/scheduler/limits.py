"""Whether the options of a scheduler make sense."""

from __future__ import annotations

from ramet.config import SchedulerConfig
from ramet.errors import InvalidRequest
from ramet.scheduler.policy import POLICIES


def check_config(config: SchedulerConfig) -> None:
    """Refuse options that make no sense; before a model is loaded for them.

    Raises:
        InvalidRequest: an unknown policy, or a limit below 1.
    """
    if config.policy not in POLICIES:
        raise InvalidRequest(f"policy must be one of {', '.join(sorted(POLICIES))}, got {config.policy!r}")
    for name in ("max_batch_tokens", "max_running_requests", "max_waiting_requests"):
        limit = getattr(config, name)
        if name == "max_waiting_requests" and limit is None:
            continue
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise InvalidRequest(f"{name} must be an integer of at least 1, got {limit!r}")
