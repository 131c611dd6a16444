"""Who computes: the native kernels on a CPU, or torch on a GPU."""

import pytest
import torch

from ramet.config import ModelOptions, SchedulerConfig
from ramet.errors import UnsupportedFeature
from ramet.kernels import load_native, why_unavailable
from ramet.runner import build, torch_build
from ramet.runner.build import runner_from_weights
from ramet.runner.native import NativeModelRunner
from ramet.runner.torch_build import choose_device
from runner.tiny_models import random_weights, tiny_config

with_native = pytest.mark.skipif(load_native() is None, reason=str(why_unavailable()))

STEPS = SchedulerConfig(max_batch_tokens=77)


@pytest.fixture
def machine(monkeypatch):
    """``machine(driver=, cuda=)``: whether there is an NVIDIA driver, and whether torch can use it."""

    def set_up(*, driver: bool, cuda: bool) -> None:
        monkeypatch.setattr(build, "has_nvidia_driver", lambda: driver)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)

    return set_up


@pytest.fixture
def on_torch(monkeypatch):
    """The devices and steps of runners made on torch, none of which is really made."""
    made = []

    def build_torch_runner(config, weights, options, *, steps, **_):
        made.append((choose_device(options.device).type, steps))
        return "a runner on torch"

    monkeypatch.setattr(torch_build, "build_torch_runner", build_torch_runner)
    return made


def runner_of(**options):
    config = tiny_config()
    return runner_from_weights(
        config, random_weights(config), ModelOptions(**options), max_kv_tokens=70, steps=STEPS
    )


@pytest.mark.parametrize("device", ["auto", "cuda"])
@pytest.mark.parametrize("kernels", ["auto", "torch"])
def test_a_gpu_is_taken_by_torch(machine, on_torch, device, kernels):
    machine(driver=True, cuda=True)
    assert runner_of(device=device, kernels=kernels) == "a runner on torch"
    assert on_torch == [("cuda", STEPS)]


@with_native
@pytest.mark.parametrize(
    ("driver", "cuda", "options"),
    [
        (False, False, {"device": "auto"}),
        (True, False, {"device": "auto"}),  # a torch without CUDA
        (True, True, {"device": "cpu"}),
        (True, True, {"device": "auto", "kernels": "native"}),
    ],
)
def test_otherwise_the_native_kernels_compute(machine, on_torch, driver, cuda, options):
    machine(driver=driver, cuda=cuda)
    runner = runner_of(**options)
    assert isinstance(runner, NativeModelRunner) and not on_torch
    runner.close()


def test_what_cannot_be_is_refused(machine):
    machine(driver=True, cuda=True)
    with pytest.raises(UnsupportedFeature, match="kernels='native' computes on a CPU"):
        runner_of(device="cuda", kernels="native")
    machine(driver=True, cuda=False)
    with pytest.raises(UnsupportedFeature, match="no CUDA device"):
        runner_of(device="cuda")
