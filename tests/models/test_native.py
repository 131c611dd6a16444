"""Checkpoints on the native kernels: what becomes of each type of tensor, and models of each, end to end."""

from __future__ import annotations

from dataclasses import replace

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from stored_models import TINY, random_weights, write_gguf

from attention.plans import Sequence, Step, execute, given, sampling_of
from ramet import kernels
from ramet.config import ModelOptions
from ramet.errors import CorruptWeights, UnsupportedModel
from ramet.models.config import RopeScaling
from ramet.models.native import load_decoder, pack_matrix, why_unsupported
from ramet.models.stored import StoredTensor, as_float32
from ramet.models.weights import load_model_config, open_weights
from ramet.runner.build import build_runner

NATIVE = kernels.load_native()
if NATIVE is None:
    pytest.skip(kernels.why_unavailable(), allow_module_level=True)

SMALL = replace(
    TINY,
    vocab_size=72,
    hidden_size=256,
    intermediate_size=512,
    num_heads=4,
    num_kv_heads=2,
    head_dim=64,
    tie_word_embeddings=False,
)
"""Every matrix has rows of whole K blocks."""

BLOCK_TYPES = (
    Type.Q4_0,
    Type.Q4_1,
    Type.Q5_0,
    Type.Q5_1,
    Type.Q8_0,
    Type.Q4_K,
    Type.Q5_K,
    Type.Q6_K,
)
FLOAT_TYPES = (Type.F32, Type.F16, Type.BF16)
FORMATS = {
    Type.Q4_0: "q4",
    Type.Q4_1: "q4 with minima",
    Type.Q4_K: "q4 with minima",
    **dict.fromkeys((Type.Q5_0, Type.Q5_1, Type.Q5_K, Type.Q6_K, Type.Q8_0), "q8"),
    **dict.fromkeys(FLOAT_TYPES, "bf16"),
}
STEPS = {Type.Q4_K: 15, Type.Q5_K: 31}  # of the numbers in a block


def encoded(kind, shape, seed=0):
    """A matrix with weights of about ``inputs ** -0.5``, as a file stores it."""
    rng = np.random.default_rng(seed)
    size = shape[1] ** -0.5
    if kind not in (Type.Q4_K, Type.Q5_K, Type.Q6_K):
        values = rng.standard_normal(shape).astype(np.float32) * np.float32(size)
        return gguf.quants.quantize(values, kind)
    # gguf cannot make K blocks: random bytes, and scales that fit them
    block_bytes = gguf.GGML_QUANT_SIZES[kind][1]
    blocks = rng.integers(0, 256, (shape[0], shape[1] // 256, block_bytes), dtype=np.uint8)
    if kind == Type.Q6_K:
        blocks[:, :, 208:210] = np.array([size / 75 / 18], dtype="<f2").view(np.uint8)
    else:
        scale = size / 31 / (STEPS[kind] / 3.5)
        blocks[:, :, :4] = np.array([scale, scale * STEPS[kind] / 2], dtype="<f2").view(np.uint8)
    return blocks.reshape(shape[0], -1)


def stored(kind, shape, seed=0):
    data = encoded(kind, shape, seed)
    return StoredTensor(shape, kind.name, np.ascontiguousarray(data).view(np.uint8))


def weights_of(matrix):
    outputs, inputs = matrix.shape
    columns = np.empty((inputs, outputs), dtype=np.float32)
    NATIVE.linear(NATIVE.supported_isas()[0], matrix, np.eye(inputs, dtype=np.float32), columns)
    return columns.T.astype(np.float64)


def largest_of_32(values):
    blocks = np.abs(values).reshape(len(values), -1, 32)
    return np.repeat(blocks.max(axis=2), 32, axis=1)


# ------------------------------------------------------------------------------------------------ one matrix


@pytest.mark.parametrize("kind", [*BLOCK_TYPES, *FLOAT_TYPES], ids=lambda kind: kind.name)
def test_every_type_is_packed_into_the_format_that_is_told(kind):
    tensor = stored(kind, (40, 512))
    assert pack_matrix(NATIVE, tensor).format == FORMATS[kind]
    assert pack_matrix(NATIVE, tensor, "bfloat16").format == "bf16"
    assert pack_matrix(NATIVE, tensor, "float32").format == "f32"


@pytest.mark.parametrize("kind", [*BLOCK_TYPES, *FLOAT_TYPES], ids=lambda kind: kind.name)
def test_float32_and_bfloat16_are_the_decoded_weights(kind):
    tensor = stored(kind, (40, 512))
    values = as_float32(tensor)
    assert np.array_equal(weights_of(pack_matrix(NATIVE, tensor, "float32")), values)
    lost = np.abs(weights_of(pack_matrix(NATIVE, tensor, "bfloat16")) - values)
    assert (lost <= 2.0**-8 * np.abs(values)).all()


@pytest.mark.parametrize(
    ("kind", "part"),
    [(Type.Q4_0, 0), (Type.Q8_0, 0), (Type.Q4_1, 1 / 750), (Type.Q4_K, 1 / 150)]
    + [(kind, 1 / 254 * 1.001) for kind in (Type.Q5_0, Type.Q5_1, Type.Q5_K, Type.Q6_K)],
    ids=str,
)
def test_what_each_type_loses(kind, part):
    """A part of the largest weight in a block of 32. Of Q4_1, whose blocks go from their smallest to their
    largest weight, that is 1/100 of a step of the 4-bit grid; in ours of Q4_K the middle is anywhere."""
    tensor = stored(kind, (40, 512))
    values = as_float32(tensor).astype(np.float64)
    largest = largest_of_32(values)
    lost = np.abs(weights_of(pack_matrix(NATIVE, tensor)) - values)
    assert (lost <= part * largest + 1e-6 * largest + 127 * 2.0**-25 * (part > 0)).all()
    assert (lost.max() > 1e-6) == (part > 0)


# ----------------------------------------------------------------------------------------------- a whole file


def weights_like(config, seed=0):
    """Weights that keep numbers where they are: norms around one, matrices of ``inputs ** -0.5``."""
    weights = random_weights(config, seed)
    return {
        name: (1 + array * 0.1 if "norm" in name else array * array.shape[-1] ** -0.5).astype(np.float32)
        for name, array in weights.items()
    }


def write(path, kind, config=SMALL):
    """A model whose matrices all have a type."""
    weights = weights_like(config)
    raw = {
        name: (encoded(kind, array.shape, seed), kind)
        for seed, (name, array) in enumerate(weights.items())
        if array.ndim == 2
    }
    return write_gguf(path, config, weights, raw=raw)


def logprobs(path, length=60, **options):
    """Log-probabilities of all tokens after the first, a middle and the last token of a text."""
    runner = build_runner(path, ModelOptions(device="cpu", **options), max_kv_tokens=128)
    token_ids = np.random.default_rng(0).integers(0, runner.vocab_size, length).tolist()
    step = [Step(Sequence(token_ids, list(range(length))), 0, length)]
    vocab = list(range(runner.vocab_size))
    rows = [row for row in (0, 30, length - 1) for _ in vocab]
    output = execute(runner, given(step, sampling_of([]), score_rows=rows, score_token_ids=vocab * 3))
    runner.close()
    return output.score_logprobs.reshape(3, -1)


def root_mean_square(values):
    return float(np.sqrt(np.square(values, dtype=np.float64).mean()))


@pytest.mark.parametrize("kind", [*BLOCK_TYPES, *FLOAT_TYPES], ids=lambda kind: kind.name)
def test_a_file_of_each_type_runs(tmp_path, kind):
    """With float32 the logits are those of torch. As stored, inputs of products are bfloat16 or, for blocks,
    have 8 bits, which moves them by half a percent; fourteen products stand one behind the other."""
    path = write(tmp_path / "model.gguf", kind)
    expected = logprobs(path, kernels="torch", dtype="float32")
    size = root_mean_square(expected - expected.mean(axis=1, keepdims=True))
    assert size > 0.3
    assert root_mean_square(logprobs(path, kernels="native", dtype="float32") - expected) < 1e-5 * size
    assert root_mean_square(logprobs(path, kernels="native") - expected) < 0.05 * size
    assert root_mean_square(logprobs(path, kernels="native", dtype="bfloat16") - expected) < 0.02 * size


@pytest.mark.parametrize("kind", [Type.Q4_0, Type.Q4_1, Type.Q8_0], ids=lambda kind: kind.name)
def test_an_odd_number_of_blocks_between_gate_and_down(tmp_path, kind):
    """Of 60 rows, of 90, which are more than are quantized at a time, and of 120, which threads share."""
    path = write(tmp_path / "model.gguf", kind, replace(SMALL, intermediate_size=96, context_length=128))
    expected = logprobs(path, kernels="torch", dtype="float32")
    size = root_mean_square(expected - expected.mean(axis=1, keepdims=True))
    result = logprobs(path, kernels="native")
    assert root_mean_square(result - expected) < 0.05 * size
    for length in (90, 120):
        assert np.array_equal(logprobs(path, length, kernels="native")[:2], result[:2])


def test_types_may_be_mixed(tmp_path):
    """Every matrix of another type, the head tied to an embedding of 8 bits: what quantizers write."""
    config = replace(SMALL, tie_word_embeddings=True, num_layers=2)
    weights = weights_like(config)
    kinds = [Type.Q8_0, *BLOCK_TYPES, *FLOAT_TYPES]
    matrices = [name for name, array in weights.items() if array.ndim == 2]
    raw = {
        name: (encoded(kinds[index % len(kinds)], weights[name].shape, index), kinds[index % len(kinds)])
        for index, name in enumerate(sorted(matrices))
    }
    path = write_gguf(tmp_path / "model.gguf", config, weights, raw=raw)
    expected = logprobs(path, kernels="torch", dtype="float32")
    size = root_mean_square(expected - expected.mean(axis=1, keepdims=True))
    assert root_mean_square(logprobs(path, kernels="native", dtype="float32") - expected) < 1e-5 * size
    assert root_mean_square(logprobs(path, kernels="native") - expected) < 0.05 * size


@pytest.mark.parametrize(
    "changes",
    [
        {"architecture": "qwen2", "qkv_bias": True},
        {"architecture": "qwen3", "qk_norm": True},
        {"qkv_bias": True, "output_bias": True, "mlp_bias": True},
    ],
    ids=str,
)
def test_biases_and_head_norms_of_a_file(tmp_path, changes):
    config = replace(SMALL, **changes)
    path = write(tmp_path / "model.gguf", Type.Q8_0, config)
    assert replace(load_model_config(path), rms_norm_eps=config.rms_norm_eps) == config
    expected = logprobs(path, kernels="torch", dtype="float32")
    result = logprobs(path, kernels="native", dtype="float32")
    assert np.abs(result - expected).max() < 1e-5 * np.abs(expected).max()


# ------------------------------------------------------------------------------------------ what does not fit


def test_what_the_kernels_cannot_compute_is_said():
    assert why_unsupported(SMALL) is None
    assert "'mamba'" in why_unsupported(replace(SMALL, architecture="mamba"))
    assert "the model's is 33" in why_unsupported(replace(SMALL, head_dim=33))
    assert "at most 512" in why_unsupported(replace(SMALL, head_dim=514))
    assert why_unsupported(replace(SMALL, head_dim=512)) is None


def decoder_of(path, config, **given):
    return load_decoder(config, open_weights(path, config), NATIVE, NATIVE.Team(1), **given)


def test_loading_reports_progress(tmp_path):
    path = write(tmp_path / "model.gguf", Type.Q8_0)
    seen = []
    decoder_of(path, SMALL, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(0, 3), (1, 3), (3, 3)]


def test_a_missing_tensor_is_named(tmp_path):
    weights = weights_like(SMALL)
    del weights["model.layers.1.mlp.up_proj.weight"]
    path = write_gguf(tmp_path / "model.gguf", SMALL, weights)
    with pytest.raises(CorruptWeights, match=r"blk\.1\.ffn_up\.weight"):
        decoder_of(path, SMALL)


def test_a_scaling_that_does_not_fit_is_refused(tmp_path):
    path = write(tmp_path / "model.gguf", Type.Q8_0)
    config = replace(SMALL, rope_scaling=RopeScaling(kind="tensor", frequency_divisors=(1.0,) * 31))
    with pytest.raises(UnsupportedModel, match="31 values, but head_dim 64 needs 32"):
        decoder_of(path, config)


@pytest.mark.parametrize("isa", NATIVE.supported_isas())
def test_an_instruction_set_can_be_chosen(tmp_path, isa):
    path = write(tmp_path / "model.gguf", Type.Q4_1)
    decoder = decoder_of(path, SMALL, isa=isa)
    decoder.allocate_kv(8)
    hidden, logits = np.ones((1, 256), dtype=np.float32), np.empty((1, 72), dtype=np.float32)
    likeliest = np.empty(1, dtype=np.int32)
    decoder.logits(hidden, np.zeros(1, dtype=np.int32), logits, likeliest)
    assert np.isfinite(logits).all()
    assert likeliest == logits.argmax()
