"""Options of an engine are refused before a model is looked for."""

from __future__ import annotations

import pytest

from ramet.engine.engine import Engine
from ramet.errors import InvalidRequest


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "tpu"}, "device must be one of auto, cpu, cuda, got 'tpu'"),
        ({"dtype": "int8"}, "dtype must be one of auto, float32, bfloat16, float16, got 'int8'"),
        ({"kv_dtype": "float16"}, "kv_dtype must be one of auto, float32, bfloat16, float8, got 'float16'"),
        ({"kernels": "fast"}, "kernels must be one of auto, native, torch, got 'fast'"),
        ({"policy": "random"}, "policy must be one of fcfs, lpm, got 'random'"),
        ({"max_batch_tokens": 0}, "max_batch_tokens must be an integer of at least 1, got 0"),
        ({"max_running_requests": 1.5}, "max_running_requests must be an integer of at least 1, got 1.5"),
        ({"max_kv_tokens": -1}, "max_kv_tokens must be an integer of at least 1, got -1"),
        ({"gpu_memory_fraction": 0}, "gpu_memory_fraction must be between 0.01 and 1, got 0"),
        ({"gpu_memory_fraction": 1.5}, "gpu_memory_fraction must be between 0.01 and 1, got 1.5"),
        ({"gpu_memory_fraction": "most"}, "gpu_memory_fraction must be a number, got str"),
        ({"seed": "lucky"}, "seed must be an integer, got str"),
    ],
)
def test_a_wrong_option_is_refused_before_the_model_is_looked_for(options, message):
    with pytest.raises(InvalidRequest) as caught:
        Engine("/no/such/model", **options)
    assert message in str(caught.value)
