"""The values of the native interface as JSON, as its client and its server both read and write them.

Prompts, sampling parameters, outputs and errors each have a module. Invariant: what is encoded and decoded
again is equal, token ids of generated text included, so that a prompt that goes on keeps its KV on the
server; and what is decoded is a proper value, or an error says why not. It must not know HTTP or engines.
"""

from ramet.wire.errors import BadAnswer, error_from
from ramet.wire.outputs import Output, ScoreOutput, Scores
from ramet.wire.prompts import decode_prompt, encode_prompt
from ramet.wire.sampling import decode_params, encode_params

__all__ = [
    "BadAnswer",
    "Output",
    "ScoreOutput",
    "Scores",
    "decode_params",
    "decode_prompt",
    "encode_params",
    "encode_prompt",
    "error_from",
]
