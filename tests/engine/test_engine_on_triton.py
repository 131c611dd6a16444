"""A whole engine on the parts that a GPU has: Triton's kernels, replayed steps, samples drawn on the device
and steps planned ahead. Without a GPU all of it runs in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from driving import request

from ramet.config import SchedulerConfig
from ramet.engine.core import EngineCore
from ramet.models.llama import LlamaModel
from ramet.runner.forward import EagerForward
from ramet.runner.kv_pool import KVPool
from ramet.runner.model_runner import TorchModelRunner
from runner.tiny_models import random_weights, tiny_config, tiny_runner

pytest.importorskip("triton")

from ramet.attention.triton import TritonAttention
from ramet.layers.triton import TritonOperations
from ramet.runner.cuda_graph import GraphedForward
from ramet.runner.device_sampler import draw
from runner.test_cuda_graph import DEVICE, HAS_CUDA, RepeatedCalls

CONFIG = tiny_config(num_layers=1, hidden_size=32, num_heads=2, num_kv_heads=1, head_dim=16)
PREFIX = list(range(3, 33))


def triton_runner(*, graphs):
    operations = TritonOperations()
    model = LlamaModel(
        CONFIG, random_weights(CONFIG), dtype=torch.float32, device=DEVICE, operations=operations
    )
    pool = KVPool(CONFIG, 400, torch.float32, DEVICE)
    attention = TritonAttention(2, 1, 16, num_multiprocessors=1)
    if graphs:
        recorder = None if HAS_CUDA else RepeatedCalls()
        forward = GraphedForward(model, attention, pool, DEVICE, recorder)
    else:
        forward = EagerForward(model, attention, pool, DEVICE)
    return TorchModelRunner(model, forward, pool, DEVICE, draw)


def outputs_of(runner, **scheduler):
    """Tokens and logprobs of requests that share prefixes, and neither begin nor end at the same time."""
    core = EngineCore(runner, SchedulerConfig(max_batch_tokens=48, **scheduler), eos_token_ids=[7])
    waiting = [
        request("0.0", [*PREFIX, 1], max_tokens=6, logprobs=1),
        request("0.1", [*PREFIX, 1], max_tokens=6, temperature=1.0, seed=5),
        request("1.0", [*PREFIX, 2, 9], max_tokens=4, temperature=0.7, top_p=0.9, top_k=40, seed=6),
        request("2.0", [40] * 50, max_tokens=3, frequency_penalty=1.5, logit_bias={11: 3.0}),
        request("3.0", [*PREFIX, 1, 44, 45], score_from=31, max_tokens=0, logprobs=0),
    ]
    tokens, logprobs = {}, {}
    while core.has_work or waiting:
        found = core.handle(waiting.pop(0)) if waiting else []
        for output in [*found, *core.step()]:
            assert output.error is None
            tokens.setdefault(output.request_id, []).extend(output.token_ids)
            logprobs.setdefault(output.request_id, []).extend(
                raw.logprob for raw in output.logprobs if raw is not None
            )
        core.scheduler.check()
    return tokens, logprobs


@pytest.mark.parametrize(("graphs", "overlap"), [(True, True), (False, False)])
def test_it_puts_out_what_the_reference_does(graphs, overlap):
    expected, expected_logprobs = outputs_of(tiny_runner(CONFIG, num_slots=400))
    runner = triton_runner(graphs=graphs)
    assert runner.is_asynchronous
    tokens, logprobs = outputs_of(runner, overlap=overlap)
    assert tokens == expected
    for request_id, values in expected_logprobs.items():
        assert logprobs[request_id] == pytest.approx(values, abs=1e-4)
