"""The bundled model through the runner alone: loaded, prefilled in two steps, decoded greedily."""

import pytest

from attention.plans import Sequence, Step, execute, given
from ramet.config import ModelOptions
from ramet.runner.build import build_runner
from ramet.store import list_models
from ramet.tokenizer.load import load_tokenizer
from ramet.types import Prompt

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def model_path():
    for model in list_models():
        if model.source == "bundled":
            return model.path
    pytest.skip("the bundled model is not in the cache; `ramet models pull` fetches it")


def test_greedy_text(model_path):
    tokenizer = load_tokenizer(model_path)
    runner = build_runner(model_path, ModelOptions(device="cpu"), max_kv_tokens=256)
    token_ids = tokenizer.encode_prompt(Prompt.of("The capital of France is"))
    sequence = Sequence(token_ids, list(range(255, -1, -1)))
    execute(runner, given([Step(sequence, 0, 2)]))
    begin = 2
    for _ in range(8):
        output = execute(runner, given([Step(sequence, begin, len(token_ids))]))
        begin = len(token_ids)
        token_ids.append(int(output.token_ids[0]))
    text = b"".join(map(tokenizer.vocab.bytes_of, token_ids)).decode()
    assert text.startswith("The capital of France is Paris")
