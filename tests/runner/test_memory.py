"""What fits a memory: weights, and KV slots beside them."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramet.errors import InvalidRequest, ModelError
from ramet.runner.memory import (
    GRAPH_BYTES,
    MAX_SLOTS,
    Measured,
    check_weights_fit,
    measured_num_slots,
    readable,
    slot_bytes,
    weight_bytes,
)
from runner.tiny_models import random_weights, tiny_config

GIB = 2**30
LLAMA_8B = tiny_config(
    vocab_size=128256,
    hidden_size=4096,
    intermediate_size=14336,
    num_layers=32,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    context_length=131072,
)
PER_SLOT = 128 * 1024  # bytes of LLAMA_8B, two each


def slots_of(measured, fraction=0.9, max_kv_tokens=None, element_bytes=2, config=LLAMA_8B):
    return measured_num_slots(config, element_bytes, measured, fraction, max_kv_tokens, weights=15 * GIB)


@pytest.mark.parametrize("flags", [{}, {"qkv_bias": True, "qk_norm": True}, {"tie_word_embeddings": True}])
def test_weights_are_counted_without_reading_them(flags):
    config = tiny_config(**flags)
    values = sum(tensor.numel() for tensor in random_weights(config).tensors.values())
    assert weight_bytes(config, 2) == 2 * values
    assert weight_bytes(LLAMA_8B, 2) == 2 * 8_030_261_248  # as its model card counts


def test_weights_that_do_not_fit_are_refused_with_numbers_and_a_way_out():
    needed = weight_bytes(LLAMA_8B, 2)
    check_weights_fit(LLAMA_8B, 2, needed, dtype="bfloat16", device="cuda")
    with pytest.raises(ModelError) as caught:
        check_weights_fit(LLAMA_8B, 2, needed - 1, dtype="bfloat16", device="cuda")
    assert "the weights of this llama model need 15.0 GiB in bfloat16, and cuda has 15.0 GiB free" in str(
        caught.value
    )
    assert "device='cpu'" in str(caught.value) and "dtype=" not in str(caught.value)
    with pytest.raises(ModelError, match=r"need 29\.9 GiB in float32, and cpu has .*use dtype='bfloat16'"):
        check_weights_fit(LLAMA_8B, 4, 16 * GIB, dtype="float32", device="cpu")


def test_the_pool_gets_what_a_step_and_graphs_leave_of_the_fraction():
    assert slot_bytes(LLAMA_8B, 2) == PER_SLOT
    measured = Measured(step=2 * GIB, free=100 * GIB)
    assert slots_of(measured, 0.5) == (50 * GIB - 2 * GIB - GRAPH_BYTES) // PER_SLOT
    assert slots_of(measured, 0.5, element_bytes=1) == 2 * slots_of(measured, 0.5)
    assert slots_of(measured) > 4 * LLAMA_8B.context_length  # as many as fit, unlike on a CPU


def test_a_given_number_is_taken_if_it_fits():
    measured = Measured(step=GIB, free=20 * GIB)
    most = slots_of(measured)
    assert slots_of(measured, max_kv_tokens=most) == most
    assert slots_of(measured, max_kv_tokens=1) == 1
    with pytest.raises(
        ModelError, match=f"max_kv_tokens={most + 1:,} needs 16.5 GiB, and at most {most:,} slots fit"
    ):
        slots_of(measured, max_kv_tokens=most + 1)
    with pytest.raises(InvalidRequest, match="max_kv_tokens must be at least 1, got 0"):
        slots_of(measured, max_kv_tokens=0)


def test_without_room_for_one_slot_all_numbers_are_said():
    with pytest.raises(ModelError) as caught:
        slots_of(Measured(step=2 * GIB, free=2 * GIB + 3 * 2**19), 0.8)
    for said in (
        "no memory for the KV pool",
        "15.0 GiB of weights",
        "2.0 GiB are free",
        "gpu_memory_fraction=0.8",
        "a step takes 2.0 GiB",
        "CUDA graphs 512.0 MiB",
        "a slot 131,072 bytes",
        "Lower max_batch_tokens",
    ):
        assert said in str(caught.value)


def test_slot_ids_stay_within_int32():
    tiny = replace(LLAMA_8B, num_layers=1, num_kv_heads=1, head_dim=2)
    huge = Measured(step=0, free=2**50)
    assert slots_of(huge, config=tiny) == MAX_SLOTS == 2**31 - 1
    with pytest.raises(ModelError, match="at most 2,147,483,647 slots fit"):
        slots_of(huge, config=tiny, max_kv_tokens=2**31)


@given(
    step=st.integers(0, 2**38),
    free=st.integers(0, 2**38),
    fraction=st.floats(0.01, 1.0),
    element_bytes=st.sampled_from([1, 2, 4]),
)
def test_all_fits_and_one_more_slot_would_not(step, free, fraction, element_bytes):
    per_slot = slot_bytes(LLAMA_8B, element_bytes)
    room = free * fraction - step - GRAPH_BYTES
    try:
        num_slots = slots_of(Measured(step=step, free=free), fraction, element_bytes=element_bytes)
    except ModelError:
        assert room < per_slot
    else:
        assert 1 <= num_slots <= MAX_SLOTS
        assert num_slots * per_slot <= room < (num_slots + 1) * per_slot + 1


def test_sizes_are_readable():
    assert readable(3 * GIB // 2) == "1.5 GiB"
    assert readable(GIB - 2**29) == "512.0 MiB"
    assert readable(0) == "0.0 MiB"
