"""Weights from a Hugging Face folder: one safetensors file, or shards with an index."""

from __future__ import annotations

import json
import mmap
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from ramet.errors import CorruptWeights, ModelNotFound, UnsupportedModel
from ramet.json_file import read_json_object
from ramet.models.config import ModelConfig
from ramet.models.stored import FLOAT_BYTES, StoredTensor
from ramet.models.tensor_shapes import tensor_shapes

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_U64 = struct.Struct("<Q")


class SafetensorsWeights:
    """See `ramet.models.weights.open_weights`."""

    def __init__(self, folder: Path, config: ModelConfig) -> None:
        self._folder = folder
        self._shapes = tensor_shapes(config)
        self._shards: dict[Path, _Shard] = {}  # opened when first needed, and kept mapped
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

    def stored(self, name: str) -> StoredTensor:
        expected = self._shapes.get(name)
        if expected is None:
            raise CorruptWeights(f"{self._folder}: a model of this config has no tensor {name!r}")
        path, stored_name = self._shard_of[name], self._stored_as[name]
        shard = self._open(path)
        entry = shard.entries.get(stored_name)
        if entry is None:
            raise CorruptWeights(f"{path} has no tensor {stored_name!r}, which {_INDEX} says is there")
        shape, dtype = tuple(entry["shape"]), entry["dtype"]
        if shape != expected:
            raise CorruptWeights(
                f"{path}: tensor {stored_name!r} has shape {shape}, the config says {expected}"
            )
        if dtype not in FLOAT_BYTES:
            raise UnsupportedModel(
                f"{path}: tensor {stored_name!r} has type {dtype}; supported are {', '.join(FLOAT_BYTES)}"
            )
        return StoredTensor.of(shape, dtype, shard.bytes_of(entry))

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
        return dict.fromkeys(self._open(self._folder / _SINGLE).entries, _SINGLE)

    def _open(self, path: Path) -> _Shard:
        if path not in self._shards:
            self._shards[path] = _Shard(path)
        return self._shards[path]


class _Shard:
    """One safetensors file on a memory map.

    The safetensors library checks it: that the header is well-formed, that each tensor's bytes fit its shape
    and type, and that all of them lie inside the file, side by side. It hands out no raw bytes, though, and
    its NumPy tensors know no bfloat16; so the offsets it has checked are read from the header once more.

    Attributes:
        entries: ``dtype``, ``shape`` and ``data_offsets`` of each tensor, by name.
    """

    def __init__(self, path: Path) -> None:
        try:
            with safe_open(path, framework="numpy"), path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (SafetensorError, OSError) as error:
            raise CorruptWeights(
                f"{path} is truncated or damaged ({error}); delete it and download it again"
            ) from error
        self._start = _U64.size + int(_U64.unpack_from(self._map)[0])
        self.entries: dict[str, Any] = json.loads(self._map[_U64.size : self._start])
        self.entries.pop("__metadata__", None)
        for name, entry in self.entries.items():
            # The library also takes a list of the values, which nobody writes
            if not isinstance(entry, dict):
                raise CorruptWeights(f"{path}: tensor {name!r} is not described by an object in the header")

    def bytes_of(self, entry: Mapping[str, Any]) -> NDArray[np.uint8]:
        """The bytes ``[num_bytes]`` of one of the entries, read-only."""
        begin, end = entry["data_offsets"]
        return np.frombuffer(self._map, np.uint8, end - begin, self._start + begin)
