"""The outline of a GGUF file: its metadata and where each tensor lies, on a memory map.

Every byte range handed out has been checked against the length of the file, so a truncated file fails
here, with its name, and not later in arithmetic. Written for speed on the large string arrays of a
tokenizer, which `gguf.GGUFReader` turns into several NumPy objects per string. This module must not know
what the metadata means or which tensors a model needs.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGUF_DEFAULT_ALIGNMENT, GGMLQuantizationType, GGUFValueType
from numpy.typing import NDArray

from ramet.errors import CorruptWeights, ModelNotFound, UnsupportedModel

GgufValue: TypeAlias = "str | int | float | bool | StringArray | NDArray[Any]"

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_SCALARS: Mapping[int, np.dtype[Any]] = {
    int(GGUFValueType.UINT8): np.dtype("<u1"),
    int(GGUFValueType.INT8): np.dtype("<i1"),
    int(GGUFValueType.UINT16): np.dtype("<u2"),
    int(GGUFValueType.INT16): np.dtype("<i2"),
    int(GGUFValueType.UINT32): np.dtype("<u4"),
    int(GGUFValueType.INT32): np.dtype("<i4"),
    int(GGUFValueType.FLOAT32): np.dtype("<f4"),
    int(GGUFValueType.BOOL): np.dtype("?"),
    int(GGUFValueType.UINT64): np.dtype("<u8"),
    int(GGUFValueType.INT64): np.dtype("<i8"),
    int(GGUFValueType.FLOAT64): np.dtype("<f8"),
}


@dataclass(frozen=True, slots=True)
class StringArray:
    """Where an array of strings lies: a vocabulary is read when asked for, not by all who open the file."""

    offsets: Sequence[int]  # of each string's length, 8 bytes before the string; and where the last one ends


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One entry of the tensor directory. ``shape`` has rows first, as in NumPy."""

    name: str
    shape: tuple[int, ...]
    tensor_type: GGMLQuantizationType
    offset: int  # from the start of the file
    num_bytes: int


class GgufFile:
    """An opened GGUF file.

    Attributes:
        path: the file.
        fields: metadata; arrays of numbers are NumPy arrays, those of strings are read by `strings`.
        tensors: the tensor directory, by GGUF name.

    Raises:
        ModelNotFound: the file cannot be opened or is not GGUF.
        UnsupportedModel: another version or byte order, a split file, or an unknown tensor type.
        CorruptWeights: the file ends before its header or its tensors do, or text in it is not UTF-8 (of an
            array: when `strings` is called).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._map = _open_map(path)
        cursor = _Cursor(path, self._map)
        version = cursor.u32()
        if version not in _VERSIONS:
            # A byte-swapped file carries its version in the upper half of the word.
            what = "big-endian GGUF" if version & 0xFFFF == 0 else f"GGUF version {version}"
            raise UnsupportedModel(f"{path} is {what}; supported are versions {_VERSIONS}, little-endian")
        num_tensors, num_fields = cursor.u64(), cursor.u64()
        self.fields: dict[str, GgufValue] = {}
        for _ in range(num_fields):
            name = cursor.string()
            self.fields[name] = cursor.value(cursor.u32())
        if self.integer("split.count", 1) > 1:
            raise UnsupportedModel(
                f"{path} is one part of a split GGUF; merge the parts with llama-gguf-split --merge"
            )
        self.tensors = self._read_directory(cursor, num_tensors)

    def _read_directory(self, cursor: _Cursor, num_tensors: int) -> dict[str, GgufTensor]:
        entries: list[tuple[str, tuple[int, ...], int, int]] = []
        for _ in range(num_tensors):
            name = cursor.string()
            shape = tuple(cursor.u64() for _ in range(cursor.u32()))[::-1]
            entries.append((name, shape, cursor.u32(), cursor.u64()))
        alignment = self.integer("general.alignment", GGUF_DEFAULT_ALIGNMENT)
        if alignment < 1:
            raise CorruptWeights(f"{self.path}: general.alignment is {alignment}; download the file again")
        start = -(-cursor.offset // alignment) * alignment
        return {
            name: self._place(name, shape, raw_type, start + offset)
            for name, shape, raw_type, offset in entries
        }

    def _place(self, name: str, shape: tuple[int, ...], raw_type: int, offset: int) -> GgufTensor:
        try:
            tensor_type = GGMLQuantizationType(raw_type)
            block_size, type_size = GGML_QUANT_SIZES[tensor_type]
        except (ValueError, KeyError):
            raise UnsupportedModel(f"{self.path}: tensor {name!r} has the unknown type {raw_type}") from None
        if not shape or shape[-1] % block_size:
            raise CorruptWeights(
                f"{self.path}: rows of tensor {name!r}, shape {shape}, are no whole number of "
                f"{tensor_type.name} blocks ({block_size} values each); download the file again"
            )
        num_bytes = prod(shape) // block_size * type_size
        if offset + num_bytes > len(self._map):
            raise CorruptWeights(
                f"{self.path} is truncated: tensor {name!r} ends at byte {offset + num_bytes}, the file at "
                f"{len(self._map)}; delete it and download it again"
            )
        return GgufTensor(name, shape, tensor_type, offset, num_bytes)

    def data(self, tensor: GgufTensor) -> NDArray[np.uint8]:
        """The tensor's bytes, ``[num_bytes]``, read-only, on the memory map."""
        return np.frombuffer(self._map, np.uint8, tensor.num_bytes, tensor.offset)

    # Metadata by type: a missing key gives the default, or an error that names key and file.

    def string(self, key: str, default: str | None = None) -> str:
        value = self._value(key, default)
        if not isinstance(value, str):
            raise self._wrong_type(key, "a string", value)
        return value

    def integer(self, key: str, default: int | None = None) -> int:
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._wrong_type(key, "an integer", value)
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self._wrong_type(key, "a number", value)
        return float(value)

    def boolean(self, key: str, default: bool | None = None) -> bool:
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise self._wrong_type(key, "a bool", value)
        return value

    def strings(self, key: str) -> list[str]:
        value = self._value(key, None)
        if not isinstance(value, StringArray):
            raise self._wrong_type(key, "a list of strings", value)
        return [_text(self.path, self._map[begin + 8 : end]) for begin, end in pairwise(value.offsets)]

    def numbers(self, key: str) -> NDArray[Any]:
        value = self._value(key, None)
        if not isinstance(value, np.ndarray):
            raise self._wrong_type(key, "a list of numbers", value)
        return value

    def _value(self, key: str, default: GgufValue | None) -> GgufValue:
        value = self.fields.get(key, default)
        if value is None:
            raise CorruptWeights(f"{self.path} lacks the metadata key {key!r}; convert or download it again")
        return value

    def _wrong_type(self, key: str, expected: str, value: GgufValue) -> CorruptWeights:
        got = "a list of strings" if isinstance(value, StringArray) else type(value).__name__
        return CorruptWeights(f"{self.path}: metadata key {key!r} must be {expected}, got {got}")


def is_gguf(path: Path) -> bool:
    """Whether the file begins like a GGUF file."""
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def _open_map(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                raise ModelNotFound(f"{path} is not a GGUF file (it does not begin with 'GGUF')")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise ModelNotFound(f"cannot open the model file {path}: {error.strerror}") from error


class _Cursor:
    """Reads values one after the other; refuses to go past the end of the file."""

    def __init__(self, path: Path, buffer: mmap.mmap) -> None:
        self.path = path
        self.buffer = buffer
        self.offset = len(_MAGIC)

    def advance(self, num_bytes: int) -> int:
        """Move on and return where the bytes passed over begin."""
        start = self.offset
        if num_bytes > len(self.buffer) - start:
            raise CorruptWeights(
                f"{self.path} is truncated or damaged: its header goes on past the end of the file "
                f"({len(self.buffer)} bytes); delete it and download it again"
            )
        self.offset = start + num_bytes
        return start

    def u32(self) -> int:
        return int(_U32.unpack_from(self.buffer, self.advance(4))[0])

    def u64(self) -> int:
        return int(_U64.unpack_from(self.buffer, self.advance(8))[0])

    def string(self) -> str:
        length = self.u64()
        start = self.advance(length)
        return _text(self.path, self.buffer[start : start + length])

    def value(self, value_type: int) -> GgufValue:
        if value_type == GGUFValueType.STRING:
            return self.string()
        if value_type == GGUFValueType.ARRAY:
            item_type, count = self.u32(), self.u64()
            if item_type == GGUFValueType.STRING:
                return self.string_array(count)
            return self.array(item_type, count)
        scalar: str | int | float | bool = self.array(value_type, 1)[0].item()
        return scalar

    def array(self, item_type: int, count: int) -> NDArray[Any]:
        dtype = _SCALARS.get(item_type)
        if dtype is None:
            raise UnsupportedModel(f"{self.path}: metadata of type {item_type} at byte {self.offset}")
        start = self.advance(count * dtype.itemsize)
        return np.frombuffer(self.buffer, dtype, count, start)

    def string_array(self, count: int) -> StringArray:
        # Kept flat: it walks over a few hundred thousand strings, whose lengths stand between them.
        buffer, unpack, size = self.buffer, _U64.unpack_from, len(self.buffer)
        offset = self.offset
        offsets = [offset]
        for _ in range(count):
            if offset + 8 > size:
                offset = size + 1
                break
            offset += 8 + unpack(buffer, offset)[0]
            offsets.append(offset)
        self.advance(offset - self.offset)
        return StringArray(offsets)


def _text(path: Path, raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise CorruptWeights(
            f"{path} is damaged: text in its header is not UTF-8; delete it and download it again"
        ) from None
