"""What is decided when a runner is built: kernels, device, dtypes, cores, and the size of the KV pool."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from attention.plans import Sequence, Step, execute, given
from ramet.config import ModelOptions
from ramet.errors import EngineDead, InvalidRequest, ModelError, UnsupportedFeature, UnsupportedModel
from ramet.kernels import load_native, why_unavailable
from ramet.runner import build, machine, native_build
from ramet.runner.build import runner_from_weights
from ramet.runner.kv_pool import KVPool
from ramet.runner.memory import choose_num_slots, slot_bytes
from ramet.runner.model_runner import TorchModelRunner
from ramet.runner.native import NativeModelRunner
from ramet.runner.native_build import choose_num_threads
from ramet.runner.torch_build import choose_device, choose_dtype, choose_kv_dtype
from runner.tiny_models import CPU, random_weights, tiny_config

NATIVE = load_native()
with_native = pytest.mark.skipif(NATIVE is None, reason=str(why_unavailable()))

STEP = given([Step(Sequence([1, 2, 3], [5, 6, 7]), 0, 3)])


def runner_of(config, max_kv_tokens=70, **options):
    return runner_from_weights(
        config,
        random_weights(config),
        ModelOptions(**{"device": "cpu"} | options),
        max_kv_tokens=max_kv_tokens,
    )


def messages_of(caplog, config=None, **options):
    """What is logged while a runner is built."""
    with caplog.at_level(logging.INFO, logger="ramet.runner"):
        runner_of(config or tiny_config(), **options)
    return caplog.text


def check_that_it_runs(runner):
    assert (runner.num_slots, runner.vocab_size, runner.context_length) == (70, 199, 512)
    assert 0 <= execute(runner, STEP).token_ids[0] < 199
    runner.close()
    with pytest.raises(EngineDead, match="closed"):
        execute(runner, STEP)


def test_a_runner_on_torch(caplog):
    with caplog.at_level(logging.INFO, logger="ramet.runner.torch_build"):
        runner = runner_of(tiny_config(), kernels="torch")
    assert isinstance(runner, TorchModelRunner)
    assert "llama on cpu in torch.float32, 70 KV slots" in caplog.text
    check_that_it_runs(runner)


@pytest.mark.parametrize(
    ("dtype", "kv_dtype", "bytes_each"),
    [("float32", "bfloat16", 2), ("bfloat16", "float32", 4), ("bfloat16", "float8", 1)],
)
def test_the_torch_pool_may_have_a_dtype_of_its_own(caplog, dtype, kv_dtype, bytes_each):
    given = {"kernels": "torch", "dtype": dtype, "kv_dtype": kv_dtype}
    size = 2 * 2 * 2 * 32 * bytes_each * 50_000
    assert f"50000 KV slots ({size >> 20} MiB)" in messages_of(caplog, max_kv_tokens=50_000, **given)
    check_that_it_runs(runner_of(tiny_config(), **given))


@with_native
@pytest.mark.parametrize("kernels", ["auto", "native"])
def test_a_runner_on_the_native_kernels(caplog, kernels):
    with caplog.at_level(logging.INFO, logger="ramet.runner.native_build"):
        runner = runner_of(tiny_config(), kernels=kernels, num_threads=2)
    assert isinstance(runner, NativeModelRunner)
    said = f"llama on the CPU (native kernels, {NATIVE.supported_isas()[0]}, 2 threads), weights as stored, "
    assert said + "KV bfloat16, 70 KV slots" in caplog.text
    check_that_it_runs(runner)


@with_native
@pytest.mark.parametrize(
    ("dtype", "kv_dtype", "said"),
    [
        ("auto", "auto", "weights as stored, KV bfloat16"),
        ("auto", "float32", "weights as stored, KV float32"),
        ("float32", "auto", "weights float32, KV float32"),
        ("float32", "bfloat16", "weights float32, KV bfloat16"),
        ("bfloat16", "auto", "weights bfloat16, KV bfloat16"),
        ("bfloat16", "float32", "weights bfloat16, KV float32"),
    ],
)
def test_the_pool_follows_the_dtype_unless_told(caplog, dtype, kv_dtype, said):
    assert said in messages_of(caplog, dtype=dtype, kv_dtype=kv_dtype)


@with_native
@pytest.mark.parametrize(("kv_dtype", "head_dim", "stride"), [("float32", 34, 64), ("bfloat16", 32, 32)])
def test_the_size_of_the_native_pool_counts_padding_and_dtype(caplog, kv_dtype, head_dim, stride):
    size = 2 * 2 * 2 * stride * (4 if kv_dtype == "float32" else 2) * 50_000
    text = messages_of(caplog, tiny_config(head_dim=head_dim), kv_dtype=kv_dtype, max_kv_tokens=50_000)
    assert f"50000 KV slots ({size >> 20} MiB)" in text


@with_native
def test_without_a_number_there_are_as_many_threads_as_cores(caplog, monkeypatch):
    monkeypatch.setattr(native_build, "available_cores", lambda: 3)
    assert choose_num_threads(None) == 3
    assert "3 threads" in messages_of(caplog)
    monkeypatch.setattr(native_build, "available_cores", lambda: 1000)
    assert choose_num_threads(None) == 256


@pytest.mark.parametrize("num_threads", [0, -1, 257, 2.0, "2", True])
def test_numbers_of_threads_that_cannot_be_are_refused(num_threads):
    with pytest.raises(InvalidRequest, match=r"num_threads must be an integer in 1\.\.256, got"):
        choose_num_threads(num_threads)
    if NATIVE is not None:
        with pytest.raises(InvalidRequest, match="num_threads"):
            runner_of(tiny_config(), num_threads=num_threads)


@with_native
@pytest.mark.parametrize("changes", [{"head_dim": 514, "num_heads": 1, "num_kv_heads": 1}])
def test_what_the_native_kernels_cannot_compute_runs_on_torch(caplog, changes):
    config = tiny_config(**changes)
    text = messages_of(caplog, config, kernels="auto")
    assert (
        "computing with the slow torch reference, not the native kernels: they need an even head_dim" in text
    )
    with pytest.raises(UnsupportedFeature, match=r"kernels='native' cannot be used: .*the model's is 514"):
        runner_of(config, kernels="native")


def test_without_native_kernels_auto_is_torch_and_native_an_error(caplog, monkeypatch):
    monkeypatch.setattr(build, "load_native", lambda: None)
    monkeypatch.setattr(build, "why_unavailable", lambda: "they were not compiled")
    assert isinstance(runner_of(tiny_config()), TorchModelRunner)
    assert "the slow torch reference, not the native kernels: they were not compiled" in caplog.text
    with pytest.raises(UnsupportedFeature, match="kernels='native' cannot be used: they were not compiled"):
        runner_of(tiny_config(), kernels="native")


def test_asking_for_torch_gives_no_warning(caplog):
    runner_of(tiny_config(), kernels="torch")
    assert "slow" not in caplog.text


@pytest.mark.parametrize("kernels", ["torch", pytest.param("native", marks=with_native)])
def test_float16_is_refused_on_the_cpu(kernels):
    with pytest.raises(UnsupportedFeature, match="use 'float32' or 'bfloat16'"):
        runner_of(tiny_config(), kernels=kernels, dtype="float16")


@with_native
@pytest.mark.parametrize("kernels", ["auto", "native"])
def test_a_float8_pool_is_refused_by_the_native_kernels(kernels):
    with pytest.raises(UnsupportedFeature, match="kv_dtype='float8' is not supported by the native kernels"):
        runner_of(tiny_config(), kernels=kernels, kv_dtype="float8")


def test_a_float8_pool_needs_a_gpu_that_converts_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    cuda = torch.device("cuda")
    with pytest.raises(UnsupportedFeature, match=r"compute capability 8\.9 or more, this one's is 8\.0"):
        choose_kv_dtype("float8", torch.bfloat16, cuda)
    assert choose_kv_dtype("bfloat16", torch.float16, cuda) == torch.bfloat16
    assert choose_kv_dtype("auto", torch.float16, cuda) == torch.float16
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert choose_kv_dtype("float8", torch.bfloat16, cuda) == torch.float8_e4m3fn


@with_native
def test_a_native_pool_that_does_not_fit_is_refused_with_numbers():
    with pytest.raises(ModelError, match=r"max_kv_tokens=1,000,000,000,000 needs .* bytes"):
        runner_of(tiny_config(), max_kv_tokens=10**12)
    with pytest.raises(InvalidRequest, match="max_kv_tokens must be at least 1"):
        runner_of(tiny_config(), max_kv_tokens=0)


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn])
def test_the_pool_is_zero_and_keeps_what_is_written(dtype):
    pool = KVPool(tiny_config(), 10, dtype, CPU)
    assert pool.num_bytes == 2 * 2 * 10 * 2 * 32 * dtype.itemsize
    for held in (*pool.layer(0), *pool.layer(1)):
        assert held.shape == (pool.scratch_slot + 1, 2, 32)
        assert held.dtype == dtype
        assert not held.float().any()
    written = torch.randn(2, 2, 32).to(dtype).float()
    pool.layer(1)[0][torch.tensor([7, 3])] = written.to(dtype)
    assert torch.equal(pool.layer(1)[0].float()[[7, 3]], written)
    assert not any(held.float().any() for held in (*pool.layer(0), pool.layer(1)[1]))


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


@pytest.mark.parametrize("kernels", ["torch", pytest.param("native", marks=with_native)])
def test_outputs_have_the_dtypes_of_the_contract(kernels):
    output = execute(runner_of(tiny_config(), kernels=kernels), STEP)
    assert output.token_ids.dtype == output.top_token_ids.dtype == np.int32
    assert output.logprobs.dtype == output.top_logprobs.dtype == output.score_logprobs.dtype == np.float32
