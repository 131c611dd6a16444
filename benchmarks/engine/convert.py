"""The benchmarked model in the forms its peers read: a GGUF of one type, or a Hugging Face folder.

Every form holds the same values as the original, rounded to its type. What is written carries no tokenizer
that could matter: prompts are token ids. Knows nothing of engines.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ramet.models.config import ModelConfig

_HF_CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}


def float16_gguf(source: Path, workdir: Path) -> Path:
    """``source`` with its matrices in float16; made once."""
    return _once(workdir / f"{source.stem}.F16.gguf", lambda target: _write_float16(source, target))


def hf_folder(source: Path, workdir: Path) -> Path:
    """``source`` as a Hugging Face folder in bfloat16; made once. A folder is taken as it is."""
    if source.is_dir():
        return source
    return _once(workdir / f"{source.stem}.bf16", lambda target: _write_folder(source, target))


def _once(target: Path, write: Callable[[Path], None]) -> Path:
    if not target.exists():
        unfinished = target.with_name(target.name + ".part")
        write(unfinished)
        unfinished.rename(target)
    return target


def _write_float16(source: Path, target: Path) -> None:
    from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
    from gguf.quants import dequantize

    reader = GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    writer = GGUFWriter(target, architecture)
    written_by_writer = ("GGUF.", "general.architecture", "general.file_type", "general.quantization_version")
    for name, field in reader.fields.items():
        if name.startswith(written_by_writer):
            continue
        kind, inner = field.types[0], field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), kind, inner)
    writer.add_file_type(1)  # mostly float16
    for tensor in reader.tensors:
        values = tensor.data
        if tensor.tensor_type != GGMLQuantizationType.F32 or values.ndim > 1:
            values = dequantize(values, tensor.tensor_type).astype(np.float16)
        writer.add_tensor(tensor.name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_folder(source: Path, target: Path) -> None:
    import torch
    from safetensors.torch import save_file

    from ramet.models.stored import as_float32
    from ramet.models.weights import load_model_config, open_weights

    config = load_model_config(source)
    weights = open_weights(source, config)
    target.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: torch.from_numpy(as_float32(weights.stored(name))).to(torch.bfloat16)
        for name in weights.names()
    }
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    (target / "config.json").write_text(json.dumps(hf_config(config), indent=2))


def hf_config(config: ModelConfig) -> dict[str, Any]:
    """``config.json`` of a model; no end-of-sequence token, since benchmarks ignore it.

    Raises:
        SystemExit: the rotary frequencies are stretched in a way that has no plain form there.
    """
    scaling = config.rope_scaling
    if scaling is not None and scaling.kind != "linear":
        raise SystemExit(
            f"a {scaling.kind} rotary scaling cannot be written as a Hugging Face folder; give one as --model"
        )
    rope = {"rope_type": "linear", "factor": scaling.factor} if scaling is not None else None
    return {
        "architectures": [_HF_CLASSES[config.architecture]],
        "model_type": config.architecture,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": rope,
        "tie_word_embeddings": config.tie_word_embeddings,
        "attention_bias": config.qkv_bias or config.output_bias,
        "mlp_bias": config.mlp_bias,
        "hidden_act": "silu",
        "torch_dtype": "bfloat16",
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
