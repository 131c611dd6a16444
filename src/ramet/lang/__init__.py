"""The language: programs that write prompts, generate, choose, fork and join.

An expression (`ir`) is appended to a `state`, which turns it into `steps` of a stream; the `interpreter`
runs streams on the background event loop; values are read back through `reading`. `program` makes
programs of Python functions. Invariant: works with any `Backend` and without torch or numpy; knows no
engine.
"""

from ramet.lang.api import (
    assistant,
    assistant_begin,
    assistant_end,
    gen,
    gen_int,
    gen_string,
    select,
    system,
    system_begin,
    system_end,
    user,
    user_begin,
    user_end,
)
from ramet.lang.context import set_default_backend
from ramet.lang.control import flush_cache, get_server_info
from ramet.lang.forks import Forks
from ramet.lang.program import Program, function
from ramet.lang.select import (
    greedy_token_selection,
    token_length_normalized,
    unconditional_likelihood_normalized,
)
from ramet.lang.state import ProgramState

__all__ = [
    "Forks",
    "Program",
    "ProgramState",
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
