"""A row's logits, bit for bit, whatever the step, the batch and the slots it is computed in."""

import numpy as np
import pytest
import torch

from attention.plans import Sequence, Step
from runner.row_independence import SHAPES, check_draws, check_rows, fingerprint
from runner.tiny_models import tiny_config, tiny_runner


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_of_a_row_are_the_same_bits_everywhere(shape):
    config = SHAPES[shape]
    check_rows(lambda **_: tiny_runner(config), config.vocab_size)


def test_draws_and_logprobs_are_the_same_alone_and_in_a_batch():
    check_draws(tiny_runner())


def test_bfloat16_follows_float32():
    config = tiny_config()
    sequence = Sequence(list(range(100)), list(range(100)))
    wide, narrow = (
        fingerprint(tiny_runner(config, dtype=dtype), [Step(sequence, 0, 100)], 99)
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert np.abs(wide - narrow).max() < 0.3
