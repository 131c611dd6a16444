"""The largest step, and what a device is asked for while it is computed."""

import logging

import numpy as np
import pytest
import torch

from ramet.attention.reference import ReferenceAttention
from ramet.config import ModelOptions, SchedulerConfig
from ramet.errors import ModelError
from ramet.model_io import execute
from ramet.models import torch_weights
from ramet.models.llama import LlamaModel
from ramet.runner import memory, torch_build
from ramet.runner.fake import FakeRunner
from ramet.runner.forward import EagerForward
from ramet.runner.kv_pool import KVPool
from ramet.runner.memory import slot_bytes, weight_bytes
from ramet.runner.model_runner import TorchModelRunner
from ramet.runner.profile_memory import CudaMemory, largest_step, measure
from runner.counted_memory import CountedMemory
from runner.tiny_models import CPU, random_weights, tiny_config

with_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


@pytest.mark.parametrize("context_length", [1, 64, 100, 512])
@pytest.mark.parametrize("num_rows", [1, 64, 65, 200, 300])
def test_the_largest_step_is_one_that_a_strict_runner_takes(num_rows, context_length):
    num_samples = min(num_rows, 7)
    model_input, sampling = largest_step(num_rows, num_samples, context_length)
    runner = FakeRunner(num_slots=num_rows, context_length=context_length)
    output = execute(runner, model_input, sampling)
    assert runner.rows_of_steps == [num_rows]
    assert model_input.positions.max() == min(num_rows, context_length) - 1
    assert (output.token_ids == 1).all() and len(output.token_ids) == num_samples
    assert np.isfinite(output.logprobs).all()


def test_no_kernel_of_sampling_is_left_to_be_compiled_for_a_request():
    """Kernels are compiled once more where there is a bitmask, and where all samples are greedy."""
    config, asked = tiny_config(), []

    def runner_of(num_slots):
        return FakeRunner(num_slots=num_slots, vocab_size=config.vocab_size, before_draw=asked.append)

    with CountedMemory() as meter:
        measure(runner_of, meter, config, SchedulerConfig(max_batch_tokens=64))
    assert len(asked[0].rows) == 64
    for sampling in asked[1:]:
        assert sampling.top_k[0] == 1 and sampling.top_p[0] < 1 and sampling.num_top_logprobs[0] == 1
        assert sampling.penalties is not None and sampling.bias is not None
    ways = {(sampling.temperature.item(), sampling.bitmask is None) for sampling in asked[1:]}
    assert ways == {(0, True), (0, False), (1, True), (1, False)}


def test_a_step_is_measured_beside_weights_and_pool():
    config = tiny_config()
    weights = random_weights(config)
    taken = []
    for num_rows in (64, 128, 256):
        with CountedMemory(total=2**30) as meter:
            model = LlamaModel(config, weights, dtype=torch.float32, device=CPU)
            held = meter.allocated()

            def runner_of(num_slots, model=model):
                pool = KVPool(config, num_slots, torch.float32, CPU)
                return TorchModelRunner(
                    model, EagerForward(model, ReferenceAttention(), pool, CPU), pool, CPU
                )

            measured = measure(runner_of, meter, config, SchedulerConfig(max_batch_tokens=num_rows))
            assert measured.free == 2**30 - held  # pool and step are gone
            assert measured.step == meter.highest() - held - num_rows * slot_bytes(config, 4)
        taken.append(measured.step)
    assert taken[0] > 64 * (48 + 2 * 100) * 4  # hidden states, and those between gate, up and down
    assert taken[0] < taken[1] < taken[2] < 5 * taken[0]


def test_what_stays_after_the_step_is_not_counted_twice():
    config, kept = tiny_config(), []

    class Runner(FakeRunner):
        def launch(self, model_input):
            if not kept:
                kept.append(torch.zeros(1000, dtype=torch.uint8))
            torch.zeros(500, dtype=torch.uint8)
            return super().launch(model_input)

        @property
        def pool_bytes(self):
            return 0

    with CountedMemory(total=10_000) as meter:
        measured = measure(
            lambda slots: Runner(num_slots=slots, vocab_size=config.vocab_size),
            meter,
            config,
            SchedulerConfig(),
        )
    assert (measured.step, measured.free) == (500, 9000)


# -------------------------------------------------------------------------------- a runner on such a device


TOTAL = 8 * 2**20


@pytest.fixture
def device(monkeypatch):
    """The CPU as if it were a GPU of 8 MiB, which has no room to spare for graphs or large pieces."""
    monkeypatch.setattr(torch_weights, "READER_BYTES", 1)
    monkeypatch.setattr(memory, "GRAPH_BYTES", 2**20)

    def build(config=None, total=TOTAL, steps=None, max_kv_tokens=None, **options):
        config = config or tiny_config()
        weights = random_weights(config)
        meter = CountedMemory(total=total)
        monkeypatch.setattr(torch_build, "meter_of", lambda device: meter)
        given = ModelOptions(**{"device": "cpu", "kernels": "torch"} | options)
        steps = steps or SchedulerConfig(max_batch_tokens=64)
        with meter:
            runner = torch_build.build_torch_runner(
                config, weights, given, max_kv_tokens=max_kv_tokens, steps=steps
            )
        return runner, meter

    return build


def test_the_pool_takes_what_is_left_and_no_more(device):
    runner, meter = device()
    weights, per_slot = weight_bytes(tiny_config(), 4), slot_bytes(tiny_config(), 4)
    assert runner.num_slots > 4 * 512  # more than a pool on a CPU has
    left = TOTAL - weights - runner.num_slots * per_slot
    assert (
        meter.free() <= left < 0.1 * TOTAL + 2**20 + 3 * 2**19
    )  # a tenth, graphs, a step and the tests' own
    halved, _ = device(gpu_memory_fraction=0.5)
    assert halved.num_slots < runner.num_slots * 0.6
    larger, _ = device(steps=SchedulerConfig(max_batch_tokens=512))
    assert larger.num_slots < runner.num_slots
    narrow, _ = device(kv_dtype="bfloat16")
    assert narrow.num_slots > 1.9 * runner.num_slots


def test_one_line_tells_where_the_memory_goes(device, caplog):
    with caplog.at_level(logging.INFO, logger="ramet.runner.torch_build"):
        runner, _ = device()
    text = caplog.messages[0]
    assert text.startswith("weights 0.3 MiB, a step of 64 tokens 0.")
    assert f"{runner.num_slots} KV slots {runner.pool_bytes / 2**20:.1f} MiB, left free" in text


def test_weights_are_refused_before_one_is_read(device):
    unread = tiny_config(num_layers=1000)
    with pytest.raises(ModelError, match=r"need 1\d\d\.\d MiB in float32, and cpu has 8\.0 MiB free"):
        device(unread)


@pytest.mark.parametrize(
    ("total", "rows", "said"),
    [
        (2**19, 64, r"out of memory: loading .* MiB of weights in float32, 0\.5 MiB being free before"),
        (2**21, 2048, r"out of memory: a step of 2,048 tokens; lower max_batch_tokens"),
        (2**21, 64, r"no memory for the KV pool: beside 0\.3 MiB of weights .* gpu_memory_fraction=0\.9"),
    ],
)
def test_whatever_does_not_fit_is_an_error_with_numbers(device, total, rows, said):
    with pytest.raises(ModelError, match=said):
        device(total=total, steps=SchedulerConfig(max_batch_tokens=rows))


def test_a_given_pool_that_fits_is_made(device):
    runner, _ = device(max_kv_tokens=100)
    assert runner.num_slots == 100
    with pytest.raises(ModelError, match="max_kv_tokens=1,000,000 needs"):
        device(max_kv_tokens=1_000_000)


# ------------------------------------------------------------------------------------------ a real device


@with_cuda
def test_a_gpu_counts_what_tensors_hold():
    meter = CudaMemory(torch.device("cuda"))
    free = meter.free()
    meter.restart()
    before = meter.allocated()
    held = torch.empty(2**26, dtype=torch.uint8, device="cuda")
    torch.empty(2**27, dtype=torch.uint8, device="cuda")
    assert meter.allocated() - before == held.nbytes
    assert meter.highest() - before == 2**26 + 2**27
    assert free - meter.free() >= held.nbytes


@with_cuda
def test_a_pool_on_a_gpu_leaves_what_the_fraction_says():
    config = tiny_config(num_layers=4, num_heads=8, num_kv_heads=8, head_dim=128)
    meter = CudaMemory(torch.device("cuda"))
    free = meter.free()
    runner = torch_build.build_torch_runner(
        config,
        random_weights(config),
        ModelOptions(device="cuda", gpu_memory_fraction=0.25),
        steps=SchedulerConfig(),
    )
    assert 0.1 * free < runner.pool_bytes <= 0.25 * free
    assert meter.free() >= 0.74 * free
    runner.close()
