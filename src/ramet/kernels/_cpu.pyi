"""The native CPU kernels, compiled from `cpu/*.cpp`. Arrays are C-contiguous; none is kept after a call.

Every function raises ValueError for arrays that do not fit each other and indices out of range.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ramet.model_io import Float32Array, Int32Array, ModelOutput, Sampling

def compiled_isas() -> list[str]:
    """The instruction sets this extension was compiled for, best first."""

def supported_isas() -> list[str]:
    """Those of `compiled_isas` that this CPU can run, best first: the first one is in use."""

class Team:
    """Threads that compute a step together. They sleep between steps, and end with the object."""

    def __init__(self, num_threads: int) -> None: ...
    @property
    def num_threads(self) -> int: ...

class Matrix:
    """A weight matrix in the layout of its format."""

    @property
    def shape(self) -> tuple[int, int]:
        """(outputs, inputs)"""
    @property
    def format(self) -> Literal["q4", "q4 with minima", "q8", "bf16", "f32"]: ...
    @property
    def num_bytes(self) -> int:
        """Of weights, scales and minima, with the padding to whole panels of 16 outputs."""
    def set_bias(self, bias: Float32Array) -> None:
        """``[outputs]``, added to every product."""

class Arena:
    """Memory that many matrices share, in pieces large enough for large pages."""

    def __init__(self) -> None: ...

def pack(
    tensor_type: str,
    data: NDArray[np.uint8],
    columns: int,
    keep_f32: bool = False,
    memory: Arena | None = None,
) -> Matrix:
    """Pack rows as a file stores them: ``data`` ``[outputs, bytes per row]``.

    Args:
        tensor_type: "Q4_0", "Q4_1", "Q8_0"; "F32", "F16", "BF16", which become bf16.
        columns: number of inputs.
        keep_f32: floats become f32 instead of bf16.
        memory: where the matrix will lie; by default, in memory of its own.
    """

def interleave(a: Matrix, b: Matrix, memory: Arena | None = None) -> list[Matrix]:
    """Copies of two matrices with equally many outputs, for products that read both: their panels take turns.

    Raises:
        ValueError: they differ in the number of outputs.
    """

def pack_q8(data: Float32Array, memory: Arena | None = None) -> Matrix:
    """Quantize ``[outputs, inputs]`` to 8 bits in blocks of 32 inputs."""

class Decoder:
    """All layers of a model of the Llama family. One call at a time."""

    def __init__(
        self,
        team: Team,
        isa: str,
        *,
        hidden_size: int,
        intermediate_size: int,
        num_layers: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        vocab_size: int,
        rms_norm_eps: float,
        float32: bool,
    ) -> None:
        """``float32``: keys, values and attention in float32 instead of bfloat16."""

    def set_matrix(
        self, layer: int, name: Literal["q", "k", "v", "output", "gate", "up", "down"] | str, matrix: Matrix
    ) -> None: ...
    def set_norm(
        self,
        layer: int,
        name: Literal["input_norm", "post_attention_norm", "query_norm", "key_norm"] | str,
        values: Float32Array,
    ) -> None: ...
    def set_ends(self, embedding: Matrix, head: Matrix, norm: Float32Array) -> None: ...
    def set_rotary(self, cos_sin: Float32Array) -> None:
        """``[positions, 2, head_dim / 2]``: cosines, then sines."""

    def allocate_kv(self, num_slots: int) -> None:
        """Make the pool, and check that all weights are there."""

    def populate_kv(self, piece: int) -> bool:
        """Have the system back a piece of the pool, 2 MB or less, with memory. May run beside steps.

        Pieces come in the order of slots. False if there is no such piece, or the system cannot.
        """

    def forward(
        self,
        input_ids: Int32Array,
        positions: Int32Array,
        slot_ids: Int32Array,
        row_begin: Int32Array,
        row_end: Int32Array,
        first_position: Int32Array,
        slot_offsets: Int32Array,
        slots: Int32Array,
        wanted: Int32Array,
        out: Float32Array,
    ) -> None:
        """Compute a step (`ramet.model_io.ModelInput`), write its keys and values to the pool, and put the
        normalised hidden states of the rows ``wanted`` into ``out`` ``[len(wanted), hidden_size]``."""

    def logits(
        self, hidden: Float32Array, wanted: Int32Array, out: Float32Array, likeliest: Int32Array
    ) -> None:
        """From ``hidden`` ``[n, hidden_size]``: the logits of the rows ``wanted`` (ascending, each once) into
        ``out`` ``[len(wanted), vocab_size]``; and of every row the first token with the largest logit, or -1
        if that is not finite or a logit is not a number, into ``likeliest`` ``[n]``. For tests: a `Sampler`
        asks for them itself."""

    def set_profile(self, on: bool) -> None:
        """Measure phases of `forward`, and logits; adds a wait after each, which costs a little."""

    def take_profile(self) -> dict[str, float]:
        """Seconds per phase since the last call."""

class Sampler:
    """Draws tokens and takes logprobs. Calls take turns."""

    def __init__(self, team: Team, isa: str, block_bytes: int) -> None:
        """At most ``block_bytes`` of logits, but at least a row, are computed at a time."""

    def sample(
        self,
        decoder: Decoder,
        hidden: Float32Array,
        rows: Int32Array,
        sampling: Sampling,
        uniforms: NDArray[np.float64],
        score_rows: Int32Array,
        score_token_ids: Int32Array,
        output: ModelOutput,
    ) -> None:
        """Fill ``output`` for all samples and scores of ``rows`` (ascending, each once), whose hidden states
        ``[num_rows, hidden_size]`` are given. Logits that nobody looks at are not written."""

    def sample_logits(
        self,
        logits: Float32Array,
        rows: Int32Array,
        sampling: Sampling,
        uniforms: NDArray[np.float64],
        score_rows: Int32Array,
        score_token_ids: Int32Array,
        output: ModelOutput,
    ) -> None:
        """`sample` from logits ``[num_rows, vocab_size]`` that are there already, for tests."""

class TokenTrie:
    """The tokens of a vocabulary as a trie of their bytes, one node per byte, nodes in depth-first order.

    Not changed once made: threads may share it. The automaton of a call is a `ramet.grammar.automaton.Dfa`; a
    transition to what is no state is found when it is met.
    """

    def __init__(
        self, node_bytes: NDArray[np.uint8], node_depths: Int32Array, node_of_token: Int32Array
    ) -> None:
        """``node_bytes``, ``node_depths`` ``[num_nodes]``: first bytes have depth 0. ``node_of_token``
        ``[vocab_size]``: where each token ends, -1 for one without text."""

    def allowed(
        self, byte_classes: NDArray[np.uint8], transitions: Int32Array, state: int, out: NDArray[np.uint32]
    ) -> None:
        """Write to ``out`` ``[ceil(vocab_size / 32)]`` which tokens keep it alive from ``state``."""

    def crosses(
        self, byte_classes: NDArray[np.uint8], transitions: Int32Array, state: int, tail: bytes
    ) -> bool:
        """Whether some token is ``tail`` and more bytes, and what is more keeps the automaton alive."""

# Single kernels, for tests and benchmarks.

def linear(isa: str, matrix: Matrix, x: Float32Array, out: Float32Array) -> None:
    """``out`` ``[rows, outputs]`` = ``x`` ``[rows, inputs]`` times the transposed matrix, plus its bias."""

def attention(
    team: Team,
    isa: str,
    queries: Float32Array,
    keys: Float32Array,
    values: Float32Array,
    float32_pool: bool,
    positions: Int32Array,
    row_begin: Int32Array,
    row_end: Int32Array,
    first_position: Int32Array,
    slot_offsets: Int32Array,
    slots: Int32Array,
    out: Float32Array,
) -> None:
    """Attention of one layer, as `ramet.attention.base.AttentionBackend.forward` has it."""
