"""`Engine`: a model in this process, as users hold it."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from ramet.config import (
    CacheConfig,
    Device,
    DType,
    EngineConfig,
    KernelChoice,
    KVDType,
    LoadFormat,
    ModelOptions,
    PolicyName,
    SchedulerConfig,
)
from ramet.engine.build import build_backend
from ramet.event_loop import run_sync
from ramet.facade import Facade
from ramet.stats import EngineStats

_MODEL_DEFAULTS = ModelOptions()
_SCHEDULER_DEFAULTS = SchedulerConfig()


class Engine(Facade):
    """Runs a model in this process. Safe to use from many threads at once; a context manager.

    Args:
        model: a GGUF file, a Hugging Face folder or a hub id; ``None`` is the bundled SmolLM2-135M.
        device: ``auto`` takes a GPU if there is one.
        dtype: of the weights. ``auto`` keeps quantized weights as the file has them and rounds others to
            bfloat16; without native kernels it is float32 on a CPU.
        kv_dtype: of keys and values; ``auto`` is float32 if ``dtype`` is, else bfloat16. ``float8`` (e4m3) is
            not for the native CPU kernels.
        kernels: ``auto`` takes native ones on a CPU, if this install has them (`ramet info` tells), and
            Triton's on a GPU; ``torch`` is the far slower reference.
        load_format: ``dummy`` takes random weights for the config.json of a folder, to measure its shape.
        gpu_memory_fraction: part of the memory that the weights leave free on a GPU that KV, the tensors of a
            step and CUDA graphs may take.
        cuda_graphs: on a GPU, replay small steps instead of launching them piece by piece.
        deterministic: on a GPU, the same bits in any company, for some speed; a CPU's always are.
        num_threads: threads of the native kernels; ``None`` takes the cores this process really has.
        max_kv_tokens: slots in the KV pool; ``None`` sizes it to the memory there is; on a GPU, to what
            the largest step, which is measured, leaves of it.
        max_batch_tokens: rows per step; longer prompts are computed in chunks.
        max_running_requests: requests in a step; others wait.
        policy: who is admitted first: ``lpm`` (longest prefix match) or ``fcfs``.
        overlap: on a GPU, plan a step while the one before it is computed.
        enable_jump_forward: append what a constraint leaves no choice about without asking the model.
        enable_prefix_cache: keep KV after a request ends, and share it between requests.
        seed: of the sequence that requests without a seed of their own draw theirs from.

    Raises:
        InvalidRequest: an option is out of range.
        ModelError: the model is not there, not supported or damaged; the message says what to do.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        device: Device = "auto",
        dtype: DType = "auto",
        kv_dtype: KVDType = "auto",
        kernels: KernelChoice = "auto",
        load_format: LoadFormat = "auto",
        gpu_memory_fraction: float = _MODEL_DEFAULTS.gpu_memory_fraction,
        cuda_graphs: bool = True,
        deterministic: bool = False,
        num_threads: int | None = None,
        max_kv_tokens: int | None = None,
        max_batch_tokens: int = _SCHEDULER_DEFAULTS.max_batch_tokens,
        max_running_requests: int = _SCHEDULER_DEFAULTS.max_running_requests,
        policy: PolicyName = "lpm",
        overlap: bool = True,
        enable_prefix_cache: bool = True,
        enable_jump_forward: bool = True,
        seed: int = 0,
    ) -> None:
        config = EngineConfig(
            model=ModelOptions(
                model=model,
                device=device,
                dtype=dtype,
                kv_dtype=kv_dtype,
                kernels=kernels,
                load_format=load_format,
                gpu_memory_fraction=gpu_memory_fraction,
                cuda_graphs=cuda_graphs,
                deterministic=deterministic,
                num_threads=num_threads,
            ),
            cache=CacheConfig(max_kv_tokens=max_kv_tokens, enable_prefix_cache=enable_prefix_cache),
            scheduler=SchedulerConfig(
                policy=policy,
                max_batch_tokens=max_batch_tokens,
                max_running_requests=max_running_requests,
                overlap=overlap,
            ),
            enable_jump_forward=enable_jump_forward,
            seed=seed,
        )
        self._local = build_backend(config)
        super().__init__(self._local)

    def stats(self) -> EngineStats:
        """Counters since the engine started."""
        return run_sync(self._local.stats())

    def flush_cache(self) -> bool:
        """Drop all cached KV that no running request holds; true if every slot is free now."""
        return run_sync(self._local.flush_cache())

    def shutdown(self) -> None:
        """Abort what runs and free the model. May be called more than once."""
        self._local.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()
