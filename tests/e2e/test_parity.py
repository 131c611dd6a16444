"""The bundled model against transformers, both in float32 on the same dequantized weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from plans import Given, Sequence, Step, execute, given, model_input, sampling_of

from ramet.attention.base import ForwardBatch
from ramet.attention.reference import ReferenceAttention
from ramet.config import ModelOptions
from ramet.engine.engine import Engine
from ramet.kernels import load_native, why_unavailable
from ramet.models.registry import model_constructor
from ramet.models.stored import as_float32
from ramet.models.weights import load_model_config, open_weights
from ramet.runner.build import build_runner
from ramet.runner.kv_pool import KVPool
from ramet.types import Prompt

pytestmark = [pytest.mark.model, pytest.mark.slow]

KERNELS = [
    pytest.param(
        "native", marks=pytest.mark.skipif(load_native() is None, reason=str(why_unavailable())), id="native"
    ),
    pytest.param("torch", id="torch"),
]

TIE_MARGIN = 1e-3
"""Two logits closer than this may change places in float32."""


@pytest.fixture(scope="session")
def reference(model_path):
    """transformers' Llama, filled with our dequantized weights: an independent forward pass."""
    transformers = pytest.importorskip("transformers")
    config = load_model_config(model_path)
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            max_position_embeddings=config.context_length,
            rms_norm_eps=config.rms_norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            tie_word_embeddings=True,
        )
    ).eval()
    weights = open_weights(model_path, config)
    state = {name: torch.from_numpy(as_float32(weights.stored(name))) for name in weights.names()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert set(missing) <= {"lm_head.weight"}
    model.tie_weights()
    return model


@pytest.mark.parametrize("kernels", KERNELS)
def test_greedy_outputs_equal_those_of_transformers(kernels, reference, questions):
    """20 prompts, 64 tokens each. By induction: each token is the reference's choice given those before."""
    messages = [[{"role": "user", "content": question}] for question in questions[::4][:20]]
    assert len(messages) == 20
    with Engine(dtype="float32", kernels=kernels) as engine:
        completions = engine.generate(messages, temperature=0, max_tokens=64, ignore_eos=True, logprobs=5)
        encode = engine.backend._tokenizer.encode_prompt
    worst = 0.0
    for message, completion in zip(messages, completions, strict=True):
        assert len(completion.token_ids) == 64
        prompt_ids = encode(Prompt.from_messages(message))
        ids = torch.tensor([[*prompt_ids, *completion.token_ids]])
        with torch.inference_mode():
            logits = reference(ids).logits[0, len(prompt_ids) - 1 : -1]
        best = logits.max(dim=-1)
        for position, token_id in enumerate(completion.token_ids):
            margin = float(best.values[position] - logits[position, token_id])
            if margin > 0:
                print(f"tie: position {position}, {token_id} is {margin:.2e} below {best.indices[position]}")
            assert margin < TIE_MARGIN
        logprobs = torch.log_softmax(logits, dim=-1)
        for position, entry in enumerate(completion.logprobs):
            for other in entry.top:
                expected = float(logprobs[position, other.token_id])
                worst = max(worst, abs(other.logprob - expected) / max(1.0, abs(expected)))
    print(f"largest relative difference of a top-5 logprob: {worst:.1e}")
    assert worst < 1e-4


def logits_by_torch(model_path, step):
    config, device = load_model_config(model_path), torch.device("cpu")
    model = model_constructor(config.architecture)(
        config, open_weights(model_path, config), dtype=torch.float32, device=device, on_progress=None
    )
    attention, pool = ReferenceAttention(), KVPool(config, 200, torch.float32, device)
    with torch.inference_mode():
        batch = attention.plan(ForwardBatch.from_input(model_input([step]), device))
        return model.logits(model.forward(batch, attention, pool))


def logits_by_native_kernels(model_path, step):
    """Log-probabilities: logits less the logarithm of the sum of their exponentials."""
    runner = build_runner(
        model_path, ModelOptions(device="cpu", kernels="native", dtype="float32"), max_kv_tokens=200
    )
    rows, vocab = len(step.sequence.slots), np.arange(runner.vocab_size, dtype=np.int32)
    logits = np.empty((rows, len(vocab)), dtype=np.float32)
    scored, nothing = given([step], sampling_of([]))
    for row in range(0, rows, 20):
        some = np.arange(row, row + 20, dtype=np.int32)
        part = replace(
            scored,
            logit_rows=some,
            score_rows=np.repeat(some, len(vocab)),
            score_token_ids=np.tile(vocab, len(some)),
        )
        logits[some] = execute(runner, Given(part, nothing)).score_logprobs.reshape(len(some), -1)
    return torch.from_numpy(logits)


@pytest.mark.parametrize("kernels", KERNELS)
def test_logits_agree_within_one_in_ten_thousand(kernels, model_path, reference):
    """All logits of 200 tokens, relative to the largest."""
    ids = list(range(1000, 1200))
    step = Step(Sequence(ids, list(range(200))), 0, 200)
    with torch.inference_mode():
        theirs = reference(torch.tensor([ids])).logits[0]
    if kernels == "torch":
        ours = logits_by_torch(model_path, step)
    else:
        ours = logits_by_native_kernels(model_path, step) + torch.logsumexp(theirs, dim=-1, keepdim=True)
    difference = float((ours - theirs).abs().max() / theirs.abs().max())
    print(f"largest difference of a logit, relative to the largest logit: {difference:.1e}")
    assert difference < 1e-4
