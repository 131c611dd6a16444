"""The torch runner from open weights: device, dtype, threads and the size of its KV pool are decided here.

Must not know: files.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ramet.config import Device, DType, KVDType, ModelOptions, SchedulerConfig
from ramet.errors import ModelError, UnsupportedFeature
from ramet.models.config import ModelConfig
from ramet.models.registry import model_constructor
from ramet.models.stored import OnProgress, StoredWeights
from ramet.runner.kv_pool import KVPool
from ramet.runner.machine import available_cores, available_memory
from ramet.runner.memory import (
    check_weights_fit,
    choose_num_slots,
    measured_num_slots,
    readable,
    slot_bytes,
    smaller_weights,
    weight_bytes,
)
from ramet.runner.model_runner import TorchModelRunner
from ramet.runner.parts import choose_parts
from ramet.runner.profile_memory import measure, meter_of

logger = logging.getLogger(__name__)

DTYPES: dict[DType, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
KV_DTYPES: dict[KVDType, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float8": torch.float8_e4m3fn,
}
FLOAT8_CAPABILITY = (8, 9)  # of the first GPUs that convert it


def build_torch_runner(
    config: ModelConfig,
    weights: StoredWeights,
    options: ModelOptions,
    *,
    max_kv_tokens: int | None = None,
    steps: SchedulerConfig,
    on_progress: OnProgress | None = None,
) -> TorchModelRunner:
    """The model of these weights behind torch; see `ramet.runner.build.build_runner`."""
    constructor = model_constructor(config.architecture)
    device = choose_device(options.device)
    dtype = choose_dtype(options.dtype, device)
    kv_dtype = choose_kv_dtype(options.kv_dtype, dtype, device)
    parts = choose_parts(config, options, device)
    meter = meter_of(device)
    if meter is None:
        # Not more than torch's own choice: it knows which cores are only hyperthreads
        torch.set_num_threads(min(torch.get_num_threads(), available_cores()))

    free = available_memory() if meter is None else meter.free()
    needed, in_dtype = weight_bytes(config, dtype.itemsize), str(dtype).removeprefix("torch.")
    check_weights_fit(config, dtype.itemsize, free, dtype=in_dtype, device=str(device))
    with _memory_for(
        f"loading {readable(needed)} of weights in {in_dtype}, {readable(free)} being free before",
        smaller_weights(in_dtype, str(device)),
    ):
        model = constructor(
            config,
            weights,
            dtype=dtype,
            device=device,
            on_progress=on_progress,
            operations=parts.operations,
        )

    def runner_of(num_slots: int, *, graphs: bool = False) -> TorchModelRunner:
        pool = KVPool(config, num_slots, kv_dtype, device)
        return TorchModelRunner(model, parts.forward(model, pool, graphs=graphs), pool, device, parts.draw)

    if meter is None:
        num_slots = choose_num_slots(config, kv_dtype.itemsize, available_memory(), max_kv_tokens)
    else:
        step_of = f"a step of {steps.max_batch_tokens:,} tokens"
        with _memory_for(step_of, "lower max_batch_tokens or max_running_requests"):
            measured = measure(runner_of, meter, config, steps)
        num_slots = measured_num_slots(
            config,
            kv_dtype.itemsize,
            measured,
            options.gpu_memory_fraction,
            max_kv_tokens,
            weights=needed,
        )
        pool_bytes = num_slots * slot_bytes(config, kv_dtype.itemsize)
        logger.info(
            "weights %s, %s %s, %d KV slots %s, left free %s",
            *(readable(needed), step_of, readable(measured.step)),
            *(num_slots, readable(pool_bytes), readable(measured.free - pool_bytes)),
        )
    with _memory_for(f"a KV pool of {num_slots:,} slots", "lower gpu_memory_fraction or max_kv_tokens"):
        runner = runner_of(num_slots, graphs=True)
    logger.info(
        "%s on %s in %s, %d KV slots (%d MiB)",
        config.architecture,
        device,
        dtype,
        num_slots,
        runner.pool_bytes >> 20,
    )
    return runner


@contextmanager
def _memory_for(purpose: str, advice: str) -> Iterator[None]:
    """
    Raises:
        ModelError: the memory of a GPU does not suffice; with torch's own account of it.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ModelError(f"out of memory: {purpose}; {advice} ({error})") from error


def choose_device(device: Device) -> torch.device:
    """The device to compute on; "auto" takes CUDA if there is any.

    Raises:
        UnsupportedFeature: CUDA was asked for and is not there.
    """
    has_cuda = torch.cuda.is_available()
    if device == "cuda" and not has_cuda:
        raise UnsupportedFeature("device='cuda', but torch finds no CUDA device; use device='cpu' or 'auto'")
    return torch.device("cpu" if device == "cpu" or not has_cuda else "cuda")


def choose_dtype(dtype: DType, device: torch.device) -> torch.dtype:
    """The dtype of weights and KV; "auto" is float32 on the CPU and bfloat16 on CUDA.

    Raises:
        UnsupportedFeature: float16 on the CPU, where most processors compute it far slower than float32.
    """
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if dtype == "float16" and device.type == "cpu":
        raise UnsupportedFeature("dtype='float16' is not supported on the CPU; use 'float32' or 'bfloat16'")
    return DTYPES[dtype]


def choose_kv_dtype(kv_dtype: KVDType, dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype of the KV pool; "auto" is that of the weights.

    Raises:
        UnsupportedFeature: float8 on a GPU that cannot convert it.
    """
    if kv_dtype == "auto":
        return dtype
    if kv_dtype == "float8" and device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        if capability < FLOAT8_CAPABILITY:
            raise UnsupportedFeature(
                "kv_dtype='float8' needs a GPU of compute capability 8.9 or more, this one's is "
                f"{capability[0]}.{capability[1]}; use 'bfloat16'"
            )
    return KV_DTYPES[kv_dtype]
