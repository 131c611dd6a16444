"""The whole model on Triton's kernels against torch, and what both make of a pool in float8 and of a row that
is not finite. On a GPU, or else in Triton's interpreter."""

import numpy as np
import pytest
import torch

from attention.plans import Sequence, Step, model_input
from ramet.attention.base import ForwardBatch
from ramet.attention.reference import ReferenceAttention
from ramet.layers.reference import TorchOperations
from ramet.models.llama import LlamaModel
from ramet.runner.kv_pool import KVPool
from runner.tiny_models import random_weights, tiny_config

pytest.importorskip("triton")

from ramet.attention.triton import TritonAttention
from ramet.layers.triton import TritonOperations

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
needs_gpu = pytest.mark.skipif(
    DEVICE.type == "cpu", reason="Triton's interpreter does not do this as GPUs do"
)
NUM_SLOTS = 400
CASES = {
    "plain": {},
    "qk-norm": {"qk_norm": True, "tie_word_embeddings": True},
    "biases": {"qkv_bias": True, "output_bias": True, "mlp_bias": True},
    "odd-sizes": {
        "num_heads": 7,
        "num_kv_heads": 1,
        "head_dim": 48,
        "hidden_size": 90,
        "intermediate_size": 77,
    },
}


class Decoder:
    """A model and its pool, on Triton or on torch."""

    def __init__(self, config, weights, *, triton, dtype=torch.float32, kv_dtype=None, deterministic=False):
        operations = TritonOperations(deterministic=deterministic) if triton else TorchOperations()
        self.model = LlamaModel(config, weights, dtype=dtype, device=DEVICE, operations=operations)
        self.pool = KVPool(config, NUM_SLOTS, kv_dtype or dtype, DEVICE)
        self.attention = ReferenceAttention()
        if triton:
            self.attention = TritonAttention(
                config.num_heads,
                config.num_kv_heads,
                config.head_dim,
                num_multiprocessors=4,
                deterministic=deterministic,
            )

    def logits(self, *steps):
        """Of all rows of the steps, which are computed together."""
        with torch.inference_mode():
            batch = self.attention.plan(ForwardBatch.from_input(model_input(steps), DEVICE))
            return self.model.logits(self.model.forward(batch, self.attention, self.pool))


def sequence(length, seed=0):
    rng = np.random.default_rng(seed)
    return Sequence(rng.integers(6, 199, length).tolist(), rng.permutation(NUM_SLOTS)[:length].tolist())


def two_steps(decoder):
    """A prompt, then its last token once more and two branches of it."""
    prompt = sequence(70)
    free = sorted(set(range(NUM_SLOTS)) - set(prompt.slots))
    branches = [
        Sequence([*prompt.token_ids[:66], 3 + i, 8], [*prompt.slots[:66], *free[2 * i : 2 * i + 2]])
        for i in range(2)
    ]
    first = decoder.logits(Step(prompt, 0, 70))
    second = decoder.logits(Step(prompt, 69, 70), *(Step(branch, 66, 68) for branch in branches))
    return torch.cat((first, second))


@pytest.mark.parametrize(("case", "deterministic"), [*((case, False) for case in CASES), ("biases", True)])
def test_logits_are_those_of_torch(case, deterministic):
    config = tiny_config(**CASES[case])
    weights = random_weights(config)
    expected = two_steps(Decoder(config, weights, triton=False))
    found = two_steps(Decoder(config, weights, triton=True, deterministic=deterministic))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, pytest.param(torch.bfloat16, marks=needs_gpu)], ids=str)
def test_half_precision_follows_float32(dtype):
    config = tiny_config(qk_norm=True)
    weights = random_weights(config)
    expected = two_steps(Decoder(config, weights, triton=False))
    found = two_steps(Decoder(config, weights, triton=True, dtype=dtype))
    assert (found - expected).abs().max() < 0.03 * expected.abs().max()


@pytest.mark.parametrize("triton", [False, pytest.param(True, marks=needs_gpu)])
def test_with_keys_and_values_in_float8_logits_stay_close(triton):
    config = tiny_config(num_layers=4)
    weights = random_weights(config)
    expected = two_steps(Decoder(config, weights, triton=False)).log_softmax(-1)
    narrow = Decoder(config, weights, triton=triton, kv_dtype=torch.float8_e4m3fn)
    found = two_steps(narrow).log_softmax(-1)
    divergence = (expected.exp() * (expected - found)).sum(-1)
    assert 0 < divergence.mean() < 0.003


@pytest.mark.parametrize(
    ("triton", "kv_dtype"),
    [
        (False, torch.float32),
        (False, torch.float8_e4m3fn),
        (True, torch.float32),
        pytest.param(True, torch.float8_e4m3fn, marks=needs_gpu),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NumPy, which the interpreter computes with
def test_a_row_that_is_not_finite_spoils_no_other(triton, kv_dtype):
    """A token whose embedding overflows, at position 30 of a prompt that branches at position 20."""
    config = tiny_config()
    weights = random_weights(config)
    weights.tensors["model.embed_tokens.weight"][5] = torch.inf
    healthy = sequence(40)
    sick = Sequence([*healthy.token_ids[:30], 5, *healthy.token_ids[31:]], healthy.slots)
    own = sorted(set(range(NUM_SLOTS)) - set(sick.slots))[:10]
    branch = Sequence([*sick.token_ids[:20], *range(20, 30)], [*sick.slots[:20], *own])

    def decoder():
        return Decoder(config, weights, triton=triton, kv_dtype=kv_dtype)

    expected = decoder().logits(Step(healthy, 0, 40), Step(branch, 20, 30))
    spoiled = decoder()
    found = spoiled.logits(Step(sick, 0, 40), Step(branch, 20, 30))
    assert not found[30:40].isfinite().any()
    unharmed = [*range(30), *range(40, 50)]
    assert torch.equal(found[unharmed], expected[unharmed])
    # Whoever gets its slots later finds nothing of it
    again = spoiled.logits(Step(healthy, 28, 40), Step(branch, 29, 30))
    torch.testing.assert_close(again, expected[[*range(28, 40), 49]], rtol=1e-4, atol=1e-5)
