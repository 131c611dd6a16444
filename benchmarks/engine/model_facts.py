"""The arithmetic a token costs: counted from the model's files, without loading it."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path

from ramet.gguf_file import GgufFile
from ramet.models.read_config import load_model_config
from ramet.models.tensor_shapes import tensor_shapes

_BYTES_UNQUANTIZED = 2


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Of one model.

    Attributes:
        layer_weights: numbers in the matrices of all layers; each token of a prompt multiplies them once.
        decode_bytes: bytes of these matrices and of the output head as stored; each decode step reads them.
    """

    name: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layer_weights: int
    decode_bytes: int


def read_model_facts(path: Path) -> ModelFacts:
    """Read the header of a GGUF file, or the configuration of a Hugging Face folder (taken to be 16-bit)."""
    config = load_model_config(path)
    shapes = {name: shape for name, shape in tensor_shapes(config).items() if len(shape) == 2}
    in_layers = sum(prod(shape) for name, shape in shapes.items() if ".layers." in name)
    head = config.vocab_size * config.hidden_size
    return ModelFacts(
        name=path.name,
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        layer_weights=in_layers,
        decode_bytes=(in_layers + head) * _BYTES_UNQUANTIZED if path.is_dir() else _stored_bytes(path),
    )


def _stored_bytes(path: Path) -> int:
    tensors = GgufFile(path).tensors
    head = tensors.get("output.weight") or tensors["token_embd.weight"]
    layers = [
        tensor for name, tensor in tensors.items() if name.startswith("blk.") and len(tensor.shape) == 2
    ]
    return sum(tensor.num_bytes for tensor in [*layers, head])
