"""The torch runner from open weights: device, dtype, threads and the size of its KV pool are decided here.

Must not know: files.
"""

from __future__ import annotations

import importlib.util
import logging

import torch

from ramet.attention.base import AttentionBackend
from ramet.attention.reference import ReferenceAttention
from ramet.config import Device, DType, ModelOptions
from ramet.errors import UnsupportedFeature
from ramet.models.config import ModelConfig
from ramet.models.registry import model_constructor
from ramet.models.stored import OnProgress, StoredWeights
from ramet.runner.kv_pool import KVPool
from ramet.runner.machine import available_cores, available_memory
from ramet.runner.memory import choose_num_slots, slot_bytes
from ramet.runner.model_runner import TorchModelRunner

logger = logging.getLogger(__name__)

DTYPES: dict[DType, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def build_torch_runner(
    config: ModelConfig,
    weights: StoredWeights,
    options: ModelOptions,
    *,
    max_kv_tokens: int | None = None,
    on_progress: OnProgress | None = None,
) -> TorchModelRunner:
    """The model of these weights behind torch; see `ramet.runner.build.build_runner`."""
    constructor = model_constructor(config.architecture)
    device = choose_device(options.device)
    dtype = choose_dtype(options.dtype, device)
    if device.type == "cpu":
        # Not more than torch's own choice: it knows which cores are only hyperthreads
        torch.set_num_threads(min(torch.get_num_threads(), available_cores()))
    model = constructor(config, weights, dtype=dtype, device=device, on_progress=on_progress)
    free = torch.cuda.mem_get_info()[0] if device.type == "cuda" else available_memory()
    kv_dtype = dtype if options.kv_dtype == "auto" else DTYPES[options.kv_dtype]
    num_slots = choose_num_slots(config, kv_dtype.itemsize, free, max_kv_tokens)
    logger.info(
        "%s on %s in %s, %d KV slots (%d MiB)",
        config.architecture,
        device,
        dtype,
        num_slots,
        num_slots * slot_bytes(config, kv_dtype.itemsize) >> 20,
    )
    attention = _choose_attention(config, options, device)
    return TorchModelRunner(model, attention, KVPool(config, num_slots, kv_dtype, device), device)


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


def _choose_attention(config: ModelConfig, options: ModelOptions, device: torch.device) -> AttentionBackend:
    if device.type != "cuda" or options.kernels == "torch":
        return ReferenceAttention()
    if importlib.util.find_spec("triton") is None:
        logger.warning("computing attention with the slow torch reference: pip install triton")
        return ReferenceAttention()
    from ramet.attention.triton import TritonAttention

    return TritonAttention(
        config.num_heads,
        config.num_kv_heads,
        config.head_dim,
        num_multiprocessors=torch.cuda.get_device_properties(device).multi_processor_count,
    )
