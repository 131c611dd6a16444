"""Ramet: language-model programs, and an engine made for them.

``import ramet as rm`` loads the language and the values it works with, and neither torch nor numpy:
`Engine` is loaded when it is first named.
"""

from __future__ import annotations

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
    function,
    gen,
    gen_int,
    gen_string,
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

__all__ = [
    "Backend",
    "BackendError",
    "Cfg",
    "Choice",
    "Chunk",
    "Completion",
    "Constraint",
    "CorruptWeights",
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
    "function",
    "gen",
    "gen_int",
    "gen_string",
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
    if name == "Engine":
        from ramet.engine.engine import Engine

        return Engine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
