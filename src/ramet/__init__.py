"""Ramet: language-model programs, and an engine made for them.

``import ramet as rm`` loads the language and the values it works with, and neither torch, numpy nor httpx:
`Engine`, `Endpoint` and `Runtime` are loaded when they are first named.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ramet._version import __version__
from ramet.backend import Backend
from ramet.constraints import Cfg, Choice, Constraint, JsonSchema, Regex
from ramet.errors import (
    BackendError,
    CorruptWeights,
    EngineDead,
    EngineError,
    InvalidConstraint,
    InvalidRequest,
    ModelError,
    ModelNotFound,
    Overloaded,
    ProgramError,
    PromptTooLong,
    RametError,
    RequestAborted,
    RequestTimeout,
    UnknownVariable,
    UnsupportedFeature,
    UnsupportedModel,
)
from ramet.lang import (
    Forks,
    Program,
    ProgramState,
    assistant,
    assistant_begin,
    assistant_end,
    flush_cache,
    function,
    gen,
    gen_int,
    gen_string,
    get_server_info,
    greedy_token_selection,
    select,
    set_default_backend,
    system,
    system_begin,
    system_end,
    token_length_normalized,
    unconditional_likelihood_normalized,
    user,
    user_begin,
    user_end,
)
from ramet.sampling_params import SamplingParams
from ramet.stats import EngineStats
from ramet.types import Chunk, Completion, Prompt, Score, TokenLogprob, TopLogprob, Usage

if TYPE_CHECKING:
    from ramet.engine.engine import Engine
    from ramet.lang.backends.endpoint import Endpoint
    from ramet.lang.backends.endpoint import Endpoint as RuntimeEndpoint
    from ramet.lang.backends.runtime import Runtime

_LOADED_LATE = {
    "Endpoint": ("ramet.lang.backends.endpoint", "Endpoint"),
    "Engine": ("ramet.engine.engine", "Engine"),
    "Runtime": ("ramet.lang.backends.runtime", "Runtime"),
    "RuntimeEndpoint": ("ramet.lang.backends.endpoint", "Endpoint"),  # its name in SGLang
}

__all__ = [
    "Backend",
    "BackendError",
    "Cfg",
    "Choice",
    "Chunk",
    "Completion",
    "Constraint",
    "CorruptWeights",
    "Endpoint",
    "Engine",
    "EngineDead",
    "EngineError",
    "EngineStats",
    "Forks",
    "InvalidConstraint",
    "InvalidRequest",
    "JsonSchema",
    "ModelError",
    "ModelNotFound",
    "Overloaded",
    "Program",
    "ProgramError",
    "ProgramState",
    "Prompt",
    "PromptTooLong",
    "RametError",
    "Regex",
    "RequestAborted",
    "RequestTimeout",
    "Runtime",
    "RuntimeEndpoint",
    "SamplingParams",
    "Score",
    "TokenLogprob",
    "TopLogprob",
    "UnknownVariable",
    "UnsupportedFeature",
    "UnsupportedModel",
    "Usage",
    "__version__",
    "assistant",
    "assistant_begin",
    "assistant_end",
    "flush_cache",
    "function",
    "gen",
    "gen_int",
    "gen_string",
    "get_server_info",
    "greedy_token_selection",
    "select",
    "set_default_backend",
    "system",
    "system_begin",
    "system_end",
    "token_length_normalized",
    "unconditional_likelihood_normalized",
    "user",
    "user_begin",
    "user_end",
]


def __getattr__(name: str) -> Any:
    if name in _LOADED_LATE:
        module, attribute = _LOADED_LATE[name]
        return getattr(import_module(module), attribute)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
