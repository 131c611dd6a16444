"""The decoder against the torch models on small random weights, and what it says of what does not fit."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import structs

from attention.plans import Sequence, Step, model_input, sampling_of
from ramet import kernels
from ramet.attention.base import ForwardBatch
from ramet.attention.reference import ReferenceAttention
from ramet.models.config import RopeScaling
from ramet.models.llama import LlamaModel
from ramet.models.native import load_decoder
from ramet.runner.kv_pool import KVPool
from ramet.runner.native_sampler import BLOCK_BYTES, empty_output, uniforms_of
from runner.tiny_models import CPU, QuantizedWeights, random_weights, tiny_config

NATIVE = kernels.load_native()
if NATIVE is None:
    pytest.skip(kernels.why_unavailable(), allow_module_level=True)

ISAS = NATIVE.supported_isas()
TEAMS = {size: NATIVE.Team(size) for size in (1, 2, 3, 8)}
LENGTH = 150
NUM_SLOTS = 1024

CASES = {
    "plain": {},
    "tied": {"tie_word_embeddings": True},
    "qkv-bias": {"architecture": "qwen2", "qkv_bias": True},
    "all-biases": {"qkv_bias": True, "output_bias": True, "mlp_bias": True},
    "qk-norm": {"architecture": "qwen3", "qk_norm": True},
    "one-kv-head": {"num_heads": 8, "num_kv_heads": 1},
    "14-over-2": {"num_heads": 14, "num_kv_heads": 2},
    "multi-head": {"num_heads": 3, "num_kv_heads": 3},
    "odd-sizes": {"hidden_size": 51, "intermediate_size": 77, "vocab_size": 203, "mlp_bias": True},
    "tiny-sizes": {
        "hidden_size": 5,
        "intermediate_size": 1,
        "num_heads": 1,
        "num_kv_heads": 1,
        "head_dim": 2,
    },
    "head-34": {"head_dim": 34, "qk_norm": True},
    "head-80": {"head_dim": 80},
    "head-256": {"head_dim": 256, "num_heads": 2, "num_kv_heads": 1},
    "one-layer": {"num_layers": 1},
    "five-layers": {"num_layers": 5},
    "linear-rope": {"rope_scaling": RopeScaling(kind="linear", factor=4.0)},
    "llama3-rope": {
        "rope_scaling": RopeScaling(kind="llama3", factor=8.0, original_context_length=64),
    },
    "yarn-rope": {
        "rope_scaling": RopeScaling(
            kind="yarn", factor=4.0, original_context_length=64, attention_factor=1.14
        ),
    },
    "divisors": {
        "rope_scaling": RopeScaling(kind="tensor", frequency_divisors=tuple(1.0 + i for i in range(16)))
    },
}


def native(config, weights=None, *, team=1, isa=None, dtype="float32", num_slots=NUM_SLOTS):
    weights = random_weights(config) if weights is None else weights
    decoder = load_decoder(
        config, weights, NATIVE, TEAMS[team], dtype=dtype, float32_kv=dtype == "float32", isa=isa
    )
    decoder.allocate_kv(num_slots)
    return decoder


def arrays_of(step, wanted):
    segments = step.segments
    return {
        "input_ids": step.input_ids,
        "positions": step.positions,
        "slot_ids": step.slot_ids,
        "row_begin": segments.row_begin,
        "row_end": segments.row_end,
        "first_position": segments.first_position,
        "slot_offsets": segments.slot_offsets,
        "slots": segments.slots,
        "wanted": np.asarray(wanted, dtype=np.int32),
    }


def logits_of(decoder, config, steps, wanted=None):
    """Logits of the rows ``wanted`` of a step, by default of all."""
    step = model_input(steps)
    wanted = range(len(step.input_ids)) if wanted is None else wanted
    hidden = np.full((len(wanted), config.hidden_size), np.nan, dtype=np.float32)
    decoder.forward(*arrays_of(step, wanted).values(), hidden)
    return all_logits(decoder, hidden, config.vocab_size)


def all_logits(decoder, hidden, vocab_size):
    """Logits of all rows; checks the likeliest tokens found beside them."""
    rows = np.arange(len(hidden), dtype=np.int32)
    logits = np.full((len(hidden), vocab_size), np.nan, dtype=np.float32)
    likeliest = np.full(len(hidden), -7, dtype=np.int32)
    decoder.logits(hidden, rows, logits, likeliest)
    assert likeliest.tolist() == [first_largest(row) for row in logits]
    return logits


def first_largest(row):
    """The first token with the largest logit; -1 if that is not finite or one is not a number."""
    return int(row.argmax()) if np.isfinite(row.max()) else -1


def logits_by_torch(config, steps):
    model = LlamaModel(config, random_weights(config), dtype=torch.float32, device=CPU)
    attention, pool = ReferenceAttention(), KVPool(config, NUM_SLOTS, torch.float32, CPU)
    with torch.inference_mode():
        batch = attention.plan(ForwardBatch.from_input(model_input(steps), CPU))
        return model.logits(model.forward(batch, attention, pool)).numpy()


def sequence(config, length=LENGTH, seed=0, slots=None):
    rng = np.random.default_rng(seed)
    slots = rng.permutation(NUM_SLOTS)[:length].tolist() if slots is None else slots
    return Sequence(rng.integers(0, config.vocab_size, length).tolist(), slots)


@pytest.mark.parametrize("case", CASES)
def test_float32_logits_are_those_of_the_torch_model(case):
    config = tiny_config(**CASES[case])
    steps = [Step(sequence(config), 0, LENGTH)]
    expected = logits_by_torch(config, steps)
    for isa in ISAS:
        logits = logits_of(native(config, isa=isa, team=2), config, steps)
        assert np.abs(logits - expected).max() <= 1e-5 * np.abs(expected).max(), isa


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
@pytest.mark.parametrize("case", ["plain", "all-biases", "odd-sizes", "qk-norm", "head-80"])
def test_bfloat16_follows_float32(case, dtype, isa):
    """Both keep weights, KV and inputs of products in bfloat16. Each of some twenty roundings on the way
    through two layers moves a number by up to 2**-8 of itself. They are independent: together one percent."""
    config = tiny_config(**CASES[case])
    steps = [Step(sequence(config), 0, LENGTH)]
    wide = logits_of(native(config), config, steps)
    narrow = logits_of(native(config, isa=isa, dtype=dtype), config, steps)
    assert 1e-4 < root_mean_square(wide - narrow) / root_mean_square(wide) < 0.02


def root_mean_square(values):
    return np.sqrt(np.square(values, dtype=np.float64).mean())


@pytest.mark.parametrize("stored", ["float32", "bfloat16", "Q4_0"])
@pytest.mark.parametrize("isa", ISAS)
def test_rows_are_the_same_bits_in_steps_of_any_size(stored, isa):
    """Two rows are one thread's; where each has many, it takes them alone: 48, or 16 with 4-bit weights."""
    quantized = stored == "Q4_0"
    hidden_size, intermediate_size = (64, 96) if quantized else (51, 77)
    config = tiny_config(hidden_size=hidden_size, intermediate_size=intermediate_size, context_length=513)
    weights = QuantizedWeights(config, stored) if quantized else random_weights(config)
    dtype = "auto" if quantized else stored
    whole = sequence(config, 513)
    expected = logits_of(native(config, weights, dtype=dtype, isa=isa), config, [Step(whole, 0, 513)])
    for team in TEAMS:
        decoder = native(config, weights, dtype=dtype, isa=isa, team=team)
        begin, parts = 0, []
        for size in (1, 2, 3, 47, 257, 1, 95, 107):
            parts.append(logits_of(decoder, config, [Step(whole, begin, begin + size)]))
            begin += size
        assert begin == 513
        assert np.array_equal(np.concatenate(parts), expected), f"{team} threads"
        for size in (15, 16, 17, 31, 32, 33, 38, 60, 61, 95, 96, 97, 144, 145, 191, 256, 258, 384):
            rows = logits_of(decoder, config, [Step(whole, 0, size)])
            assert np.array_equal(rows, expected[:size]), f"{size} rows, {team} threads"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("team", [1, 2])
def test_what_rows_are_wanted_changes_no_row_and_no_later_step(dtype, isa, team):
    """The last layer reads the context for wanted rows only, and leaves the keys and values of all."""
    config = tiny_config(context_length=700)
    slots = np.random.default_rng(1).permutation(NUM_SLOTS).tolist()
    long = sequence(config, 600, slots=slots[:600])
    branch = Sequence(long.token_ids[:100] + [5] * 20, slots[:100] + slots[600:620])
    steps = [Step(long, 0, 599), Step(branch, 100, 119)]
    later = [Step(long, 599, 600), Step(branch, 119, 120)]
    decoder = native(config, dtype=dtype, isa=isa, team=team)
    everything, afterwards = logits_of(decoder, config, steps), logits_of(decoder, config, later)
    for wanted in ([], [0], [598, 617], [3, 77, 149, 255, 256, 600], list(range(70, 400))):
        decoder = native(config, dtype=dtype, isa=isa, team=team)
        assert np.array_equal(logits_of(decoder, config, steps, wanted), everything[wanted])
        assert np.array_equal(logits_of(decoder, config, later), afterwards)


@pytest.mark.parametrize("team", [1, 2])
def test_logits_of_some_of_many_rows(team):
    """More than are multiplied at a time."""
    config = tiny_config()
    decoder = native(config, team=team)
    hidden = np.random.default_rng(0).standard_normal((600, config.hidden_size), dtype=np.float32)
    everything = all_logits(decoder, hidden, config.vocab_size)
    for wanted in ([0, 255, 256, 511, 512, 599], [300], []):
        rows, likeliest = np.array(wanted, dtype=np.int32), np.empty(600, dtype=np.int32)
        logits = np.empty((len(wanted), config.vocab_size), dtype=np.float32)
        decoder.logits(hidden, rows, logits, likeliest)
        assert np.array_equal(logits, everything[wanted])
        assert np.array_equal(likeliest, everything.argmax(axis=1))


@pytest.mark.parametrize("block_bytes", [BLOCK_BYTES, 5000, 1])
@pytest.mark.parametrize("team", [1, 2])
def test_samples_are_those_of_the_logits(team, block_bytes):
    """Of some rows somebody looks at logits, of others at the likeliest token, of blocks of them at none."""
    config = tiny_config()
    hidden = np.random.default_rng(0).standard_normal((60, config.hidden_size), dtype=np.float32)
    rows = np.arange(0, 180, 3, dtype=np.int32)
    sampling = sampling_of(
        rows[5:],
        temperature=np.where(rows[5:] % 4 == 0, 0, 1).astype(np.float32) * (rows[5:] < 90),
        num_top_logprobs=np.where(rows[5:] % 7 == 0, 2, -1).astype(np.int32),
    )
    of_samples = rows, sampling, uniforms_of(sampling), rows[:7], np.arange(7, dtype=np.int32)
    decoder, sampler = native(config, team=team), NATIVE.Sampler(TEAMS[team], ISAS[0], block_bytes)
    drawn, expected = empty_output(sampling, 7), empty_output(sampling, 7)
    for array in structs.asdict(drawn).values():
        array.fill(77)
    sampler.sample(decoder, hidden, *of_samples, drawn)
    sampler.sample_logits(all_logits(decoder, hidden, config.vocab_size), *of_samples, expected)
    for name, oracle in structs.asdict(expected).items():
        assert np.array_equal(getattr(drawn, name), oracle, equal_nan=name == "logprobs"), name
    for other in (hidden[:, 1:].copy(), hidden[1:]):
        with pytest.raises(ValueError, match="hidden size"):
            sampler.sample(decoder, other, *of_samples, drawn)


@pytest.mark.parametrize("wanted", [[3, 2], [3, 3]])
def test_wanted_rows_out_of_order_are_refused(wanted):
    config = tiny_config()
    with pytest.raises(ValueError, match="ascending"):
        logits_of(native(config), config, [Step(sequence(config), 0, LENGTH)], wanted)


def test_a_pool_can_be_made_anew():
    config = tiny_config()
    decoder, steps = native(config), [Step(sequence(config, slots=list(range(LENGTH))), 0, LENGTH)]
    first = logits_of(decoder, config, steps)
    decoder.allocate_kv(LENGTH)
    assert np.array_equal(logits_of(decoder, config, steps), first)
    with pytest.raises(ValueError, match=r"slot 150 is not in 0\.\.149"):
        logits_of(decoder, config, [Step(sequence(config, 2, slots=[149, 150]), 0, 2)])


def test_two_decoders_of_one_team_take_turns():
    config = tiny_config()
    steps = [Step(sequence(config), 0, LENGTH)]
    decoders = [native(config, random_weights(config, seed), team=2) for seed in (1, 2)]
    expected = [logits_of(decoder, config, steps) for decoder in decoders]
    failures = []

    def run(index):
        for _ in range(20):
            if not np.array_equal(logits_of(decoders[index], config, steps), expected[index]):
                failures.append(index)

    threads = [threading.Thread(target=run, args=(index,)) for index in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_profile_tells_seconds_per_phase_and_changes_nothing():
    config = tiny_config()
    decoder, steps = native(config, team=2), [Step(sequence(config), 0, LENGTH)]
    expected = logits_of(decoder, config, steps)
    assert set(decoder.take_profile().values()) == {0.0}
    decoder.set_profile(True)
    assert np.array_equal(logits_of(decoder, config, steps), expected)
    assert np.array_equal(logits_of(decoder, config, [Step(sequence(config), 149, 150)])[0], expected[149])
    profile = decoder.take_profile()
    assert {"attention", "qkv product", "down product", "logits"} <= set(profile)
    assert all(seconds > 0 for seconds in profile.values())
    assert set(decoder.take_profile().values()) == {0.0}
    decoder.set_profile(False)
    logits_of(decoder, config, steps)
    assert set(decoder.take_profile().values()) == {0.0}


# ---------------------------------------------------------------------------------------- what does not fit

SHAPES = {
    "q": (8, 6),
    "k": (4, 6),
    "v": (4, 6),
    "output": (6, 8),
    "gate": (5, 6),
    "up": (5, 6),
    "down": (6, 5),
}
SIZES = {
    "hidden_size": 6,
    "intermediate_size": 5,
    "num_layers": 2,
    "num_heads": 2,
    "num_kv_heads": 1,
    "head_dim": 4,
    "vocab_size": 7,
    "rms_norm_eps": 1e-5,
    "float32": True,
}


def empty_decoder(**changes):
    return NATIVE.Decoder(TEAMS[1], ISAS[0], **(SIZES | changes))


def matrix(outputs, inputs):
    return NATIVE.pack_q8(np.ones((outputs, inputs), dtype=np.float32))


def filled_decoder(decoder=None, *, without=(), ends=None, **changes):
    """A small decoder with all weights, but for those left out or replaced."""
    decoder = decoder or empty_decoder()
    weights = {
        (layer, name): matrix(*shape)
        for layer in range(SIZES["num_layers"])
        for name, shape in SHAPES.items()
    }
    weights |= {
        (layer, name): np.ones(6, dtype=np.float32)
        for layer in range(SIZES["num_layers"])
        for name in ("input_norm", "post_attention_norm")
    }
    for (layer, name), value in weights.items():
        value = changes.get(name, value) if layer == 1 else value
        if layer == 1 and name in without:
            continue
        (decoder.set_norm if name.endswith("norm") else decoder.set_matrix)(layer, name, value)
    for name in ("query_norm", "key_norm"):
        if name in changes:
            decoder.set_norm(1, name, changes[name])
    if "ends" not in without:
        ends = ends or {"embedding": matrix(7, 6), "head": matrix(7, 6), "norm": np.ones(6, dtype=np.float32)}
        decoder.set_ends(*(changes.get(name, value) for name, value in ends.items()))
    decoder.set_rotary(np.ones((64, 2, 2), dtype=np.float32))
    return decoder


def test_a_decoder_with_all_its_weights_is_taken():
    filled_decoder().allocate_kv(10)


def test_drawing_with_a_decoder_that_lacks_weights_is_refused_again_and_again():
    sampler, sampling = NATIVE.Sampler(TEAMS[2], ISAS[0], BLOCK_BYTES), sampling_of([0])
    nothing, hidden, row = np.empty(0, np.int32), np.ones((1, 6), np.float32), np.zeros(1, np.int32)
    output = empty_output(sampling, 0)
    for decoder in (filled_decoder(without=("ends",)), filled_decoder(without=("q",))):
        with pytest.raises(ValueError, match="is missing"):
            sampler.sample(decoder, hidden, row, sampling, np.zeros(1), nothing, nothing, output)
    complete = filled_decoder()
    complete.allocate_kv(10)
    sampler.sample(complete, hidden, row, sampling, np.zeros(1), nothing, nothing, output)
    assert 0 <= output.token_ids[0] < 7


@pytest.mark.parametrize("name", [*SHAPES, "ends"])
def test_a_missing_matrix_is_named(name):
    with pytest.raises(ValueError, match=f"the weight {'embedding' if name == 'ends' else name} is missing"):
        filled_decoder(without=(name,)).allocate_kv(10)


@pytest.mark.parametrize("name", [*SHAPES, "embedding", "head"])
def test_a_matrix_of_the_wrong_shape_is_named(name):
    outputs, inputs = SHAPES.get(name, (7, 6))
    for shape in [(outputs + 1, inputs), (outputs, inputs + 1), (outputs, inputs - 1), (inputs, outputs)]:
        with pytest.raises(ValueError, match=f"the weight {name} has the wrong shape"):
            filled_decoder(**{name: matrix(*shape)}).allocate_kv(10)


@pytest.mark.parametrize("name", ["input_norm", "post_attention_norm", "query_norm", "key_norm", "norm"])
def test_a_norm_of_the_wrong_size_is_named(name):
    said = "the last norm" if name == "norm" else name
    with pytest.raises(ValueError, match=f"{said} has the wrong size"):
        filled_decoder(**{name: np.ones(7, dtype=np.float32)}).allocate_kv(10)


@pytest.mark.parametrize("name", ["input_norm", "post_attention_norm"])
def test_a_missing_norm_is_named(name):
    with pytest.raises(ValueError, match=f"{name} has the wrong size"):
        filled_decoder(without=(name,)).allocate_kv(10)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 0}, "not positive"),
        ({"intermediate_size": -1}, "not positive"),
        ({"num_layers": 0}, "not positive"),
        ({"vocab_size": 0}, "not positive"),
        ({"head_dim": 3}, r"must be even and lie in 2\.\.512"),
        ({"head_dim": 0}, r"must be even and lie in 2\.\.512"),
        ({"head_dim": 514}, r"must be even and lie in 2\.\.512"),
        ({"num_heads": 3, "num_kv_heads": 2}, "multiple of num_kv_heads"),
        ({"num_kv_heads": 0}, "multiple of num_kv_heads"),
        ({"num_heads": 0}, "multiple of num_kv_heads"),
    ],
)
def test_sizes_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        empty_decoder(**changes)


def test_unknown_names_are_refused():
    decoder = empty_decoder()
    with pytest.raises(ValueError, match="no matrix of the name qkv"):
        decoder.set_matrix(0, "qkv", matrix(1, 1))
    with pytest.raises(ValueError, match="no norm of the name norm"):
        decoder.set_norm(0, "norm", np.ones(6, dtype=np.float32))
    with pytest.raises(ValueError, match="lacks that instruction set"):
        NATIVE.Decoder(TEAMS[1], "sse9", **SIZES)


@pytest.mark.parametrize("shape", [(64, 2, 1), (64, 2, 4), (64, 1, 2), (64, 3, 2)])
def test_a_rotary_table_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match="head_dim / 2"):
        empty_decoder().set_rotary(np.ones(shape, dtype=np.float32))


@pytest.mark.parametrize("num_slots", [0, -1, 2**31])
def test_a_pool_without_slots_is_refused(num_slots):
    with pytest.raises(ValueError, match="at least one slot"):
        filled_decoder().allocate_kv(num_slots)


def test_a_step_without_a_pool_is_refused():
    step = model_input([Step(Sequence([1], [0]), 0, 1)])
    with pytest.raises(ValueError, match="slot 0"):
        filled_decoder().forward(*arrays_of(step, [0]).values(), np.empty((1, 6), dtype=np.float32))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("input_ids", 7, r"token id 7 is not in 0\.\.6"),
        ("input_ids", -1, "token id -1"),
        ("positions", 2**31 - 1, "position 2147483647"),
        ("positions", -1, "position -1"),
        ("slot_ids", 80, "slot 80"),
        ("slots", 80, "slot 80"),
        ("wanted", 70, "wanted row 70"),
        ("wanted", -1, "wanted row -1"),
        ("row_end", 71, "outside the rows"),
        ("first_position", 1, "do not begin at a chunk"),
    ],
)
def test_numbers_out_of_range_are_refused(name, value, message):
    decoder = filled_decoder()
    decoder.allocate_kv(80)
    arrays = arrays_of(model_input([Step(Sequence([1] * 64, list(range(64))), 0, 64)]), [63])
    arrays[name] = arrays[name].copy()
    arrays[name][-1] = value
    with pytest.raises(ValueError, match=message):
        decoder.forward(*arrays.values(), np.empty((1, 6), dtype=np.float32))


def test_a_step_without_rows_is_refused():
    decoder = filled_decoder()
    decoder.allocate_kv(80)
    empty = np.empty(0, dtype=np.int32)
    with pytest.raises(ValueError, match="at least one"):
        decoder.forward(*[empty] * 6, np.zeros(1, dtype=np.int32), *[empty] * 2, np.empty((0, 6), np.float32))


numbers = st.one_of(st.integers(-1, 90), st.sampled_from([2**31 - 1, -(2**31), 64, 2**31 - 64, 2**20]))


@settings(max_examples=250, deadline=None)
@given(data=st.data())
def test_whatever_the_arrays_hold_it_is_an_error_or_a_result(data):
    decoder = filled_decoder()
    decoder.allocate_kv(80)
    other = Sequence([2] * 68, [*range(64), 70, 71, 72, 73])
    step = model_input([Step(Sequence([1] * 66, list(range(66))), 50, 66), Step(other, 67, 68)])
    arrays = arrays_of(step, [0, 16])
    for name in data.draw(st.sets(st.sampled_from(list(arrays)), min_size=1)):
        values = arrays[name].tolist()
        for _ in range(data.draw(st.integers(1, 3))):
            place = data.draw(st.integers(0, len(values)))
            values[place : place + data.draw(st.integers(0, 2))] = data.draw(st.lists(numbers, max_size=2))
        arrays[name] = np.array(values, dtype=np.int32)
    out_shape = data.draw(st.sampled_from([(len(arrays["wanted"]), 6), (2, 6), (2, 5), (0, 0)]))
    out = np.full(out_shape, 77, dtype=np.float32)
    try:
        decoder.forward(*arrays.values(), out)
    except ValueError:
        assert (out == 77).all(), "refused, and written to"
    else:
        assert not (out == 77).any()


@settings(max_examples=60, deadline=None)
@given(
    hidden=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    wanted=st.lists(st.integers(-1, 9), max_size=3),
    out=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    likeliest=st.integers(0, 9),
)
@example(hidden=(2, 6), wanted=[1], out=(1, 7), likeliest=2)
@example(hidden=(2, 6), wanted=[], out=(0, 7), likeliest=2)
@example(hidden=(2, 6), wanted=[2], out=(1, 7), likeliest=2)
@example(hidden=(2, 6), wanted=[1, 0], out=(2, 7), likeliest=2)
@example(hidden=(2, 6), wanted=[0, 0], out=(2, 7), likeliest=2)
@example(hidden=(2, 6), wanted=[0], out=(1, 7), likeliest=1)
@example(hidden=(2, 6), wanted=[0], out=(2, 7), likeliest=2)
def test_logits_of_shapes_that_do_not_fit_are_refused(hidden, wanted, out, likeliest):
    decoder = filled_decoder()
    decoder.allocate_kv(80)
    given_arrays = (
        np.ones(hidden, dtype=np.float32),
        np.array(wanted, dtype=np.int32),
        np.ones(out, dtype=np.float32),
        np.ones(likeliest, dtype=np.int32),
    )
    rows_exist = wanted == sorted(set(wanted)) and all(0 <= row < hidden[0] for row in wanted)
    if hidden == (likeliest, 6) and out == (len(wanted), 7) and rows_exist:
        decoder.logits(*given_arrays)
    else:
        with pytest.raises(ValueError, match=r"must be|wanted row"):
            decoder.logits(*given_arrays)


special = st.sampled_from([np.nan, np.inf, -np.inf])


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    team=st.sampled_from([1, 2, 8]),
    vocab_size=st.integers(1, 150),
    num_rows=st.integers(1, 20),
)
def test_the_likeliest_token_is_the_first_with_the_largest_logit(isa, data, team, vocab_size, num_rows):
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    head = rng.integers(-2, 3, (vocab_size, 6)).astype(np.float32)  # many logits are equal
    for token in data.draw(st.lists(st.integers(0, vocab_size - 1), max_size=2)):
        head[token] = data.draw(special)
    if data.draw(st.booleans()):
        head[:] = head[0]
    decoder = filled_decoder(
        NATIVE.Decoder(TEAMS[team], isa, **(SIZES | {"vocab_size": vocab_size})),
        ends={
            "embedding": matrix(vocab_size, 6),
            "head": NATIVE.pack("F32", head.view(np.uint8), 6, keep_f32=True),
            "norm": np.ones(6, dtype=np.float32),
        },
    )
    decoder.allocate_kv(80)
    hidden = rng.integers(-1, 3, (num_rows, 6)).astype(np.float32)
    logits = all_logits(decoder, hidden, vocab_size)

    wanted = np.flatnonzero(rng.random(num_rows) < 0.5).astype(np.int32)
    some = np.full((len(wanted), vocab_size), 77, dtype=np.float32)
    likeliest = np.full(num_rows, -7, dtype=np.int32)
    decoder.logits(hidden, wanted, some, likeliest)
    assert some.tobytes() == logits[wanted].tobytes()
    assert likeliest.tolist() == [first_largest(row) for row in logits]
