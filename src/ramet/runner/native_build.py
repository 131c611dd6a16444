"""The native runner from open weights: threads, formats and the size of its KV pool are decided here.

Must not know: files, torch.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from types import ModuleType

from ramet.config import ModelOptions
from ramet.errors import InvalidRequest, UnsupportedFeature
from ramet.models.config import ModelConfig
from ramet.models.native import HEAD_ALIGN, load_decoder
from ramet.models.stored import OnProgress, StoredWeights
from ramet.runner.machine import available_cores, available_memory
from ramet.runner.memory import choose_num_slots, slot_bytes
from ramet.runner.native import NativeModelRunner
from ramet.runner.native_sampler import NativeSampler

logger = logging.getLogger(__name__)

MAX_THREADS = 256


def build_native_runner(
    config: ModelConfig,
    weights: StoredWeights,
    options: ModelOptions,
    kernels: ModuleType,
    *,
    max_kv_tokens: int | None = None,
    on_progress: OnProgress | None = None,
) -> NativeModelRunner:
    """The model of these weights on the native kernels; see `ramet.runner.build.build_runner`.

    Args:
        config: a model that `ramet.models.native.why_unsupported` has nothing against.
        kernels: the extension `ramet.kernels._cpu`.
    """
    if options.dtype == "float16":
        raise UnsupportedFeature("dtype='float16' is not supported on the CPU; use 'float32' or 'bfloat16'")
    if options.kv_dtype == "float8":
        raise UnsupportedFeature(
            "kv_dtype='float8' is not supported by the native kernels; use 'bfloat16' or 'float32'"
        )
    num_threads = choose_num_threads(options.num_threads)
    float32_kv = (options.dtype if options.kv_dtype == "auto" else options.kv_dtype) == "float32"
    isa: str = kernels.supported_isas()[0]
    team = kernels.Team(num_threads)
    decoder = load_decoder(
        config, weights, kernels, team, dtype=options.dtype, float32_kv=float32_kv, on_progress=on_progress
    )
    padded = replace(config, head_dim=-(-config.head_dim // HEAD_ALIGN) * HEAD_ALIGN)
    element_bytes = 4 if float32_kv else 2
    num_slots = choose_num_slots(padded, element_bytes, available_memory(), max_kv_tokens)
    pool_bytes = num_slots * slot_bytes(padded, element_bytes)
    logger.info(
        "%s on the CPU (native kernels, %s, %d threads), weights %s, KV %s, %d KV slots (%d MiB)",
        config.architecture,
        isa,
        num_threads,
        "as stored" if options.dtype == "auto" else options.dtype,
        "float32" if float32_kv else "bfloat16",
        num_slots,
        pool_bytes >> 20,
    )
    sampler = NativeSampler(kernels, team, isa)
    described = f"native CPU kernels ({isa}, {num_threads} threads)"
    return NativeModelRunner(config, decoder, sampler, num_slots, pool_bytes=pool_bytes, kernels=described)


def choose_num_threads(num_threads: int | None) -> int:
    """A given number of threads, or as many as this process has cores.

    Raises:
        InvalidRequest: the number is not in 1..256.
    """
    if num_threads is None:
        return min(available_cores(), MAX_THREADS)
    if (
        isinstance(num_threads, bool)
        or not isinstance(num_threads, int)
        or not 1 <= num_threads <= MAX_THREADS
    ):
        raise InvalidRequest(f"num_threads must be an integer in 1..{MAX_THREADS}, got {num_threads!r}")
    return num_threads
