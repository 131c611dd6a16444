"""What reads models and plans runners imports no torch: importing it takes longer than all the rest."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from stored_models import TINY, random_weights, write_gguf, write_hf

TORCH_FREE = [
    "ramet.models.config",
    "ramet.models.frequencies",
    "ramet.models.gguf_config",
    "ramet.models.gguf_weights",
    "ramet.models.hf_config",
    "ramet.models.hf_weights",
    "ramet.models.read_config",
    "ramet.models.rope_scaling",
    "ramet.models.stored",
    "ramet.models.tensor_shapes",
    "ramet.models.weights",
    "ramet.runner.build",
    "ramet.runner.machine",
    "ramet.runner.memory",
    "ramet.engine.build",
]

READ_EVERYTHING = """
import sys
from pathlib import Path
from ramet.models.frequencies import rotary_frequencies
from ramet.models.stored import as_float32
from ramet.models.weights import load_model_config, open_weights

path = Path(sys.argv[1])
config = load_model_config(path)
weights = open_weights(path, config)
for name in weights.names():
    as_float32(weights.stored(name))
rotary_frequencies(config)
assert "torch" not in sys.modules
"""


def run(code: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, timeout=60)


def test_importing():
    imports = "; ".join(f"import {module}" for module in TORCH_FREE)
    run(f"import sys; {imports}; assert 'torch' not in sys.modules")


@pytest.mark.parametrize("form", ["gguf", "folder"])
def test_reading_every_tensor(tmp_path, form):
    weights = random_weights(TINY)
    if form == "gguf":
        path = write_gguf(tmp_path / "m.gguf", TINY, weights)
    else:
        halves = {name: torch.from_numpy(array).to(torch.bfloat16) for name, array in weights.items()}
        path = write_hf(tmp_path / "m", TINY, halves)
    run(READ_EVERYTHING, str(path))
