"""What is decided when a runner is built: device, dtype, cores, and the size of the KV pool."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from attention.plans import Sequence, Step, model_input
from ramet.config import ModelOptions
from ramet.errors import EngineDead, InvalidRequest, ModelError, UnsupportedFeature, UnsupportedModel
from ramet.runner import machine
from ramet.runner.build import runner_from_weights
from ramet.runner.kv_pool import KVPool
from ramet.runner.memory import choose_num_slots, slot_bytes
from ramet.runner.torch_build import choose_device, choose_dtype
from runner.tiny_models import CPU, random_weights, tiny_config


def test_a_runner_from_weights(caplog):
    config = tiny_config()
    with caplog.at_level(logging.INFO, logger="ramet.runner.torch_build"):
        runner = runner_from_weights(
            config, random_weights(config), ModelOptions(device="cpu"), max_kv_tokens=70
        )
    assert (runner.num_slots, runner.vocab_size, runner.context_length) == (70, 199, 512)
    assert "llama on cpu in torch.float32, 70 KV slots" in caplog.text
    step = model_input([Step(Sequence([1, 2, 3], [5, 6, 7]), 0, 3)])
    assert 0 <= runner.execute(step).token_ids[0] < 199
    runner.close()
    with pytest.raises(EngineDead, match="closed"):
        runner.execute(step)


def test_an_unknown_architecture_is_refused():
    config = tiny_config()
    with pytest.raises(UnsupportedModel, match="mamba"):
        runner_from_weights(replace(config, architecture="mamba"), random_weights(config), ModelOptions())


def test_auto_is_float32_on_cpu_and_bfloat16_on_cuda():
    assert choose_dtype("auto", CPU) == torch.float32
    assert choose_dtype("auto", torch.device("cuda")) == torch.bfloat16
    assert choose_dtype("bfloat16", CPU) == torch.bfloat16
    assert choose_dtype("float16", torch.device("cuda")) == torch.float16
    with pytest.raises(UnsupportedFeature, match="use 'float32' or 'bfloat16'"):
        choose_dtype("float16", CPU)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_without_cuda_auto_is_the_cpu():
    assert choose_device("auto") == CPU
    with pytest.raises(UnsupportedFeature, match="no CUDA device"):
        choose_device("cuda")


def test_the_pool_takes_a_quarter_of_the_memory_or_four_contexts():
    config = tiny_config()
    per_slot = slot_bytes(config, 4)
    assert per_slot == 2 * 2 * 2 * 32 * 4
    assert choose_num_slots(config, 4, 400 * per_slot, None) == 100
    assert choose_num_slots(config, 4, 10**12, None) == 4 * 512
    assert choose_num_slots(config, 2, 400 * per_slot, None) == 200
    assert choose_num_slots(config, 4, 400 * per_slot, 399) == 399


def test_a_pool_that_cannot_be_is_refused_with_numbers():
    config = tiny_config()
    with pytest.raises(ModelError, match=r"max_kv_tokens=1,000 needs 1,024,000 bytes.*at most 97 slots"):
        choose_num_slots(config, 4, 100_000, 1000)
    with pytest.raises(ModelError, match="no memory for the KV pool"):
        choose_num_slots(config, 4, 1000, None)
    with pytest.raises(InvalidRequest, match="max_kv_tokens must be at least 1, got 0"):
        choose_num_slots(config, 4, 10**9, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_pool_keeps_what_is_written(dtype):
    pool = KVPool(tiny_config(), 10, dtype, CPU)
    keys, values = torch.randn(2, 2, 32).to(dtype), torch.randn(2, 2, 32).to(dtype)
    pool.write(1, torch.tensor([7, 3]), keys, values)
    held_keys, held_values = pool.layer(1)
    assert held_keys.shape == held_values.shape == (10, 2, 32)
    assert torch.equal(held_keys[[7, 3]], keys)
    assert torch.equal(held_values[[7, 3]], values)
    assert not held_keys[0].any()
    assert not pool.layer(0)[0].any()


def test_cores_and_memory_respect_the_control_groups(tmp_path, monkeypatch):
    free = machine.available_memory()
    assert free > 0
    assert machine.available_cores() >= 1
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "cpu.max").write_text("100000 100000\n")
    (tmp_path / "a" / "b" / "cpu.max").write_text("max 100000\n")
    (tmp_path / "a" / "b" / "memory.max").write_text("5000\n")
    (tmp_path / "a" / "b" / "memory.current").write_text("2000\n")
    monkeypatch.setattr(machine, "CGROUP_ROOT", tmp_path)
    own = tmp_path / "self"
    own.write_text("0::/a/b\n")
    monkeypatch.setattr(machine, "OWN_CGROUP", own)
    assert machine.available_cores() == 1
    assert machine.available_memory() == 3000


def test_outputs_have_the_dtypes_of_the_contract():
    config = tiny_config()
    runner = runner_from_weights(config, random_weights(config), ModelOptions(device="cpu"), max_kv_tokens=70)
    output = runner.execute(model_input([Step(Sequence([1, 2], [0, 1]), 0, 2)]))
    assert output.token_ids.dtype == output.top_token_ids.dtype == np.int32
    assert output.logprobs.dtype == output.top_logprobs.dtype == output.score_logprobs.dtype == np.float32
