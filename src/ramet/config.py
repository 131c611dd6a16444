"""One frozen dataclass per component. Only `ramet.engine.build` sees them all."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Device: TypeAlias = Literal["auto", "cpu", "cuda"]
DType: TypeAlias = Literal["auto", "float32", "bfloat16", "float16"]
KVDType: TypeAlias = Literal["auto", "float32", "bfloat16"]
KernelChoice: TypeAlias = Literal["auto", "native", "torch"]
PolicyName: TypeAlias = Literal["fcfs", "lpm"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """Which model, and where and in what precision it computes."""

    model: str | None = None  # a GGUF file, a Hugging Face folder or a hub id; None is the bundled model
    device: Device = "auto"
    dtype: DType = "auto"
    kv_dtype: KVDType = "auto"  # of the KV pool; "auto" follows dtype, and is bfloat16 where that is "auto"
    kernels: KernelChoice = "auto"  # on a CPU: "auto" is native where there are native kernels
    num_threads: int | None = None  # of the native kernels; None: the cores this process really has


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheConfig:
    """The KV pool and the radix tree over it."""

    max_kv_tokens: int | None = None  # slots in the pool; None sizes it to the memory there is
    enable_prefix_cache: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerConfig:
    """What a step may hold and who goes first."""

    policy: PolicyName = "lpm"
    max_batch_tokens: int = 2048  # rows per step: longer prompts are computed in chunks
    max_running_requests: int = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Everything an engine is built from."""

    model: ModelOptions = field(default_factory=ModelOptions)
    cache: CacheConfig = field(default_factory=CacheConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    enable_jump_forward: bool = True  # tokens that a constraint leaves no choice about are not sampled
    seed: int = 0
