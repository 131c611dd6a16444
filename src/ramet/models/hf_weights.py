"""Weights from a Hugging Face folder: one safetensors file, or shards with an index."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ramet.errors import CorruptWeights, ModelNotFound, UnsupportedModel
from ramet.json_file import read_json_object
from ramet.models.config import ModelConfig
from ramet.models.tensor_shapes import tensor_shapes

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class SafetensorsWeights:
    """See `ramet.models.weights.open_weights`."""

    def __init__(self, folder: Path, config: ModelConfig) -> None:
        self._folder = folder
        self._shapes = tensor_shapes(config)
        self._shards: dict[Path, Any] = {}  # opened when first needed, and kept mapped
        stored = self._stored_tensors()
        # A checkpoint of the bare decoder has no "model." before its names.
        self._stored_as = {
            name: name if name in stored else name.removeprefix("model.") for name in self._shapes
        }
        self._shard_of: dict[str, Path] = {}
        missing = [name for name, stored_name in self._stored_as.items() if stored_name not in stored]
        if missing:
            raise CorruptWeights(
                f"{folder} lacks {len(missing)} tensors of the model, the first is {missing[0]!r}; "
                "download it again"
            )
        for name, stored_name in self._stored_as.items():
            shard = folder / stored[stored_name]
            if not shard.is_file():
                raise CorruptWeights(f"{folder} lacks the shard {shard.name}; download it again")
            self._shard_of[name] = shard

    def names(self) -> Iterable[str]:
        return tuple(self._shapes)

    def tensor(self, name: str) -> torch.Tensor:
        if name not in self._shapes:
            raise CorruptWeights(f"{self._folder}: a model of this config has no tensor {name!r}")
        path, stored_name = self._shard_of[name], self._stored_as[name]
        try:
            tensor: torch.Tensor = self._open(path).get_tensor(stored_name)
        except SafetensorError as error:
            raise CorruptWeights(f"{path} has no readable tensor {stored_name!r} ({error})") from error
        if tuple(tensor.shape) != self._shapes[name]:
            raise CorruptWeights(
                f"{path}: tensor {stored_name!r} has shape {tuple(tensor.shape)}, the config says "
                f"{self._shapes[name]}"
            )
        if tensor.dtype not in _DTYPES:
            raise UnsupportedModel(
                f"{path}: tensor {stored_name!r} has type {tensor.dtype}; supported are float32, float16 and "
                "bfloat16"
            )
        return tensor

    def _stored_tensors(self) -> Mapping[str, str]:
        """The file name of each tensor in the folder."""
        index = self._folder / _INDEX
        if index.is_file():
            stored = read_json_object(index).get("weight_map")
            if not isinstance(stored, dict) or not all(isinstance(name, str) for name in stored.values()):
                raise CorruptWeights(f"{index} has no weight_map from tensors to files; download it again")
            return stored
        if not (self._folder / _SINGLE).is_file():
            raise ModelNotFound(
                f"{self._folder} has neither {_SINGLE} nor {_INDEX}; only safetensors weights are read"
            )
        return dict.fromkeys(self._open(self._folder / _SINGLE).keys(), _SINGLE)

    def _open(self, path: Path) -> Any:
        if path not in self._shards:
            try:
                self._shards[path] = safe_open(path, framework="pt")
            except (SafetensorError, OSError) as error:
                raise CorruptWeights(
                    f"{path} is truncated or damaged ({error}); delete it and download it again"
                ) from error
        return self._shards[path]
