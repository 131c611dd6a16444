"""Small random models and runners over them."""

from __future__ import annotations

import gguf
import numpy as np
import torch

from ramet.attention.reference import ReferenceAttention
from ramet.models.config import ModelConfig
from ramet.models.llama import LlamaModel
from ramet.models.stored import StoredTensor
from ramet.models.tensor_shapes import tensor_shapes
from ramet.runner.forward import EagerForward
from ramet.runner.kv_pool import KVPool
from ramet.runner.model_runner import TorchModelRunner

CPU = torch.device("cpu")


class DictWeights:
    """Float32 weights held in a dict."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self.tensors = tensors

    def names(self):
        return self.tensors

    def stored(self, name: str) -> StoredTensor:
        values = self.tensors[name].contiguous().numpy()
        return StoredTensor.of(values.shape, "F32", values.reshape(-1).view(np.uint8))


def tiny_config(**given) -> ModelConfig:
    values = {
        "architecture": "llama",
        "vocab_size": 199,
        "hidden_size": 48,
        "intermediate_size": 100,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 32,
        "context_length": 512,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
    }
    return ModelConfig(**(values | given))


def random_weights(config: ModelConfig, seed: int = 0) -> DictWeights:
    generator = torch.Generator().manual_seed(seed)

    def tensor(name: str, shape: tuple[int, ...]) -> torch.Tensor:
        values = torch.randn(shape, generator=generator)
        return 1 + values * 0.1 if "norm" in name else values * shape[-1] ** -0.5

    return DictWeights({name: tensor(name, shape) for name, shape in tensor_shapes(config).items()})


class QuantizedWeights:
    """Random weights whose matrices are stored in blocks."""

    def __init__(self, config: ModelConfig, kind: str) -> None:
        self._floats = random_weights(config)
        self._kind = gguf.GGMLQuantizationType[kind]

    def names(self):
        return self._floats.names()

    def stored(self, name: str) -> StoredTensor:
        tensor = self._floats.stored(name)
        if len(tensor.shape) == 1:
            return tensor
        values = tensor.data.view(np.float32).reshape(tensor.shape)
        return StoredTensor(tensor.shape, self._kind.name, gguf.quants.quantize(values, self._kind))


def tiny_runner(
    config: ModelConfig | None = None,
    *,
    num_slots: int = 2048,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> TorchModelRunner:
    config = config or tiny_config()
    model = LlamaModel(config, random_weights(config, seed), dtype=dtype, device=CPU)
    pool = KVPool(config, num_slots, dtype, CPU)
    return TorchModelRunner(model, EagerForward(model, ReferenceAttention(), pool, CPU), pool, CPU)
