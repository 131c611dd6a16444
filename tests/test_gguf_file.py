"""GGUF headers: what is read, and that no damage gets past as anything but our own errors."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ramet.errors import CorruptWeights, ModelError, ModelNotFound, UnsupportedModel
from ramet.gguf_file import GgufFile, is_gguf
from ramet.models.stored import as_float32
from ramet.models.weights import load_model_config, open_weights
from ramet.tokenizer import load_tokenizer

MATRIX = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.fixture
def path(tmp_path) -> Path:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_string("text", "naïve")
    writer.add_bool("yes", True)
    writer.add_int32("minus", -3)
    writer.add_float64("tenth", 0.1)
    writer.add_array("strings", ["a", "", "中"])
    writer.add_array("numbers", [1, 2, 3])
    writer.add_tensor("matrix", MATRIX)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tmp_path / "m.gguf"


def header(version: int, num_tensors: int = 0, num_fields: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, num_tensors, num_fields)


def test_metadata_and_tensors(path):
    file = GgufFile(path)
    assert is_gguf(path)
    assert (file.string("text"), file.boolean("yes"), file.integer("minus")) == ("naïve", True, -3)
    assert file.number("tenth") == 0.1
    assert file.number("minus") == -3.0
    assert file.strings("strings") == ["a", "", "中"]
    assert file.numbers("numbers").tolist() == [1, 2, 3]
    assert file.integer("nothing", 7) == 7
    tensor = file.tensors["matrix"]
    assert (tensor.shape, tensor.tensor_type.name, tensor.num_bytes) == ((3, 4), "F32", 48)
    assert np.array_equal(file.data(tensor).view(np.float32).reshape(3, 4), MATRIX)


def test_keys_that_are_missing_or_of_another_type_are_named(path):
    file = GgufFile(path)
    with pytest.raises(CorruptWeights, match="lacks the metadata key 'nothing'"):
        file.string("nothing")
    for read in (file.string, file.integer, file.number, file.boolean, file.numbers):
        with pytest.raises(CorruptWeights, match=r"'strings' must be .*, got a list of strings"):
            read("strings")
    with pytest.raises(CorruptWeights, match="'text' must be a list of strings, got str"):
        file.strings("text")


@pytest.mark.parametrize(
    ("content", "error", "named"),
    [
        (b"", ModelNotFound, "not a GGUF file"),
        (b"GGML" + bytes(60), ModelNotFound, "not a GGUF file"),
        (b"GGUF", CorruptWeights, "truncated"),
        (header(1), UnsupportedModel, "GGUF version 1"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), UnsupportedModel, "big-endian"),
        (header(3, num_fields=1), CorruptWeights, "truncated"),
        (header(3, num_tensors=2**60), CorruptWeights, "truncated"),
        (header(3, 0, 1) + struct.pack("<Q1sI", 1, b"k", 99), UnsupportedModel, "metadata of type 99"),
        (header(3, 0, 1) + struct.pack("<Q1sIQ1s", 1, b"k", 8, 1, b"\xff"), CorruptWeights, "not UTF-8"),
        (header(3, 0, 1) + struct.pack("<Q1sIIQ", 1, b"k", 9, 8, 2**60), CorruptWeights, "truncated"),
        (
            header(3, 1) + struct.pack("<Q1sIQIQ", 1, b"t", 1, 32, 999, 0) + bytes(64),
            UnsupportedModel,
            "'t' has the unknown type 999",
        ),
        (
            header(3, 1) + struct.pack("<Q1sIQIQ", 1, b"t", 1, 33, 2, 0) + bytes(64),
            CorruptWeights,
            "no whole number of Q4_0 blocks",
        ),
    ],
)
def test_damaged_headers(tmp_path, content, error, named):
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    with pytest.raises(error, match=named):
        GgufFile(path)


def array_of_strings(*strings: bytes, count: int | None = None) -> bytes:
    head = struct.pack("<Q1sIIQ", 1, b"k", 9, 8, len(strings) if count is None else count)
    return head + b"".join(struct.pack("<Q", len(string)) + string for string in strings)


@pytest.mark.parametrize("lengths", [(2**64 - 1,), (1, 2**64 - 1), (2**63, 0)])
def test_lengths_beyond_the_file_are_refused(tmp_path, lengths):
    path = tmp_path / "m.gguf"
    array = struct.pack("<Q1sIIQ", 1, b"k", 9, 8, len(lengths))
    path.write_bytes(header(3, 0, 1) + array + b"".join(struct.pack("<Q", n) + b"x" for n in lengths))
    with pytest.raises(CorruptWeights, match="truncated"):
        GgufFile(path)


@pytest.mark.parametrize("strings", [(b"a", b"bc"), (b"a", b""), ()])
def test_arrays_of_strings_must_be_whole(tmp_path, strings):
    path = tmp_path / "m.gguf"
    path.write_bytes(header(3, 0, 1) + array_of_strings(*strings, count=len(strings) + 1))
    with pytest.raises(CorruptWeights, match="truncated"):
        GgufFile(path)
    whole = header(3, 0, 1) + array_of_strings(*strings)
    path.write_bytes(whole)
    assert GgufFile(path).strings("k") == [string.decode() for string in strings]
    path.write_bytes(whole[:-1])
    with pytest.raises(CorruptWeights, match="truncated"):
        GgufFile(path)


def test_text_of_an_array_is_checked_when_it_is_read(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(header(3, 0, 1) + array_of_strings(b"fine", b"\xff"))
    with pytest.raises(CorruptWeights, match="not UTF-8"):
        GgufFile(path).strings("k")


def test_a_part_of_a_split_file_is_refused(tmp_path):
    field = struct.pack("<Q11sII", 11, b"split.count", 4, 3)
    (tmp_path / "m.gguf").write_bytes(header(3, 0, 1) + field)
    with pytest.raises(UnsupportedModel, match="llama-gguf-split --merge"):
        GgufFile(tmp_path / "m.gguf")


# ---------------------------------------------------------------------------------------------- damage


def whole_model(path: Path) -> bytes:
    """A small but complete model: header, tokenizer and weights."""
    writer = gguf.GGUFWriter(path, "qwen2")
    sizes = {"context_length": 8, "embedding_length": 4, "block_count": 1, "feed_forward_length": 4}
    for key, value in {**sizes, "attention.head_count": 2, "attention.head_count_kv": 1}.items():
        writer.add_uint32(f"qwen2.{key}", value)
    writer.add_float32("qwen2.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["<unk>", "<s>", "</s>", "a", "b", "ab"])
    writer.add_token_scores([0.0, 0.0, 0.0, -1.0, -2.0, -3.0])
    writer.add_token_types([2, 3, 3, 1, 1, 1])
    writer.add_eos_token_id(2)
    for name, shape in {
        "token_embd": (6, 4),
        "blk.0.attn_norm": (4,),
        "blk.0.attn_q": (4, 4),
        "blk.0.attn_k": (2, 4),
        "blk.0.attn_v": (2, 4),
        "blk.0.attn_output": (4, 4),
        "blk.0.ffn_norm": (4,),
        "blk.0.ffn_gate": (4, 4),
        "blk.0.ffn_up": (4, 4),
        "blk.0.ffn_down": (4, 4),
        "output_norm": (4,),
    }.items():
        writer.add_tensor(f"{name}.weight", np.ones(shape, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


@pytest.fixture(scope="module")
def model_bytes(tmp_path_factory) -> bytes:
    return whole_model(tmp_path_factory.mktemp("whole") / "m.gguf")


def load_everything(path: Path) -> None:
    load_tokenizer(path).encode("ab", parse_special=True)
    weights = open_weights(path, load_model_config(path))
    for name in weights.names():
        as_float32(weights.stored(name))


def test_the_undamaged_model_loads(tmp_path, model_bytes):
    (tmp_path / "m.gguf").write_bytes(model_bytes)
    load_everything(tmp_path / "m.gguf")


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_is_reported_as_a_model_error(tmp_path, model_bytes, data):
    damaged = bytearray(model_bytes)
    for _ in range(data.draw(st.integers(0, 2))):
        damaged[data.draw(st.integers(4, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "m.gguf"
    path.write_bytes(damaged[: data.draw(st.integers(4, len(damaged)))])
    with contextlib.suppress(ModelError):  # anything else fails the test
        load_everything(path)
