"""Folders as transformers writes them, in shards, served end to end and compared with transformers."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import ramet as rm

SIZES = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}
FAMILIES = {
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM, {"rope_parameters": LLAMA3_ROPE}),
    "mistral": (transformers.MistralConfig, transformers.MistralForCausalLM, {"sliding_window": None}),
    "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM, {"tie_word_embeddings": True}),
    "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM, {"head_dim": 32}),
}
TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def write_tokenizer(folder):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=310,
        special_tokens=["<|end|>", "<|user|>", "<|assistant|>", "<|system|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(["the quick brown fox jumps over the lazy dog"] * 20, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|end|>",
        "chat_template": TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


@pytest.fixture(params=sorted(FAMILIES))
def folder_and_model(request, tmp_path):
    make_config, make_model, options = FAMILIES[request.param]
    torch.manual_seed(1)
    model = make_model(make_config(**SIZES, initializer_range=0.3, **options)).float().eval()
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    write_tokenizer(tmp_path)
    return tmp_path, model


def test_a_folder_is_served_as_transformers_computes_it(folder_and_model):
    folder, model = folder_and_model
    oracle = transformers.AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "user", "content": "where does the quick fox jump?"}]
    prompt = oracle.apply_chat_template(messages, add_generation_prompt=True, tokenize=True)["input_ids"]
    with rm.Engine(str(folder), dtype="float32", max_batch_tokens=16) as engine:
        completion = engine.generate(messages, temperature=0, max_tokens=40, ignore_eos=True, logprobs=0)
    assert completion.usage.prompt_tokens == len(prompt)
    ids = torch.tensor([[*prompt, *completion.token_ids]])
    with torch.inference_mode():
        logits = model(ids).logits[0, len(prompt) - 1 : -1]
    assert logits.argmax(-1).tolist() == list(completion.token_ids)
    expected = torch.log_softmax(logits, -1)[range(40), list(completion.token_ids)]
    ours = torch.tensor([entry.logprob for entry in completion.logprobs])
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    assert completion.text == oracle.decode(completion.token_ids, skip_special_tokens=True)
