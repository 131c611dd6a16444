"""The bundled model against transformers, both in float32 on the same dequantized weights."""

from __future__ import annotations

import pytest
import torch
from plans import Sequence, Step, model_input

from ramet.attention.base import ForwardBatch
from ramet.attention.reference import ReferenceAttention
from ramet.models.registry import model_constructor
from ramet.models.stored import as_float32
from ramet.models.weights import load_model_config, open_weights
from ramet.runner.kv_pool import KVPool
from ramet.types import Prompt

pytestmark = [pytest.mark.model, pytest.mark.slow]

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


def test_greedy_outputs_equal_those_of_transformers(engine, reference, questions):
    """20 prompts, 64 tokens each. By induction: each token is the reference's choice given those before."""
    messages = [[{"role": "user", "content": question}] for question in questions[::4][:20]]
    assert len(messages) == 20
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


def test_logits_agree_within_one_in_ten_thousand(model_path, reference):
    """All logits of 200 tokens, relative to the largest."""
    config = load_model_config(model_path)
    device = torch.device("cpu")
    model = model_constructor(config.architecture)(
        config, open_weights(model_path, config), dtype=torch.float32, device=device, on_progress=None
    )
    attention, pool = ReferenceAttention(), KVPool(config, 200, torch.float32, device)
    ids = list(range(1000, 1200))
    step = Step(Sequence(ids, list(range(200))), 0, 200)
    with torch.inference_mode():
        batch = attention.plan(ForwardBatch.from_input(model_input([step]), device))
        ours = model.logits(model.forward(batch, attention, pool))
        theirs = reference(torch.tensor([ids])).logits[0]
    difference = float((ours - theirs).abs().max() / theirs.abs().max())
    print(f"largest difference of a logit, relative to the largest logit: {difference:.1e}")
    assert difference < 1e-4
