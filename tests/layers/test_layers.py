"""Each layer against its definition, and the bits of a row against the company it is in."""

import math

import pytest
import torch

from ramet.layers.activation import silu_and_multiply
from ramet.layers.linear import ROW_TILE, linear
from ramet.layers.norm import rms_norm
from ramet.layers.rope import BLOCK_POSITIONS, RotaryTable, rotate

CPU = torch.device("cpu")


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def assert_rows_independent(function, rows: torch.Tensor) -> None:
    """``function`` of all rows equals, bit for bit, ``function`` of any run of them."""
    whole = function(rows)
    for begin, end in [(0, 1), (1, 2), (3, 5), (2, 19), (5, 38), (len(rows) - 1, len(rows))]:
        part = rows[begin:end].clone()
        assert torch.equal(function(part), whole[begin:end]), f"rows {begin}..{end - 1} of {len(rows)}"


SIZES = [
    (576, 960),
    (576, 576),
    (1536, 576),
    (576, 3072),
    (200, 4096),
    (72, 33),
    (33, 72),
    (4096, 64),
    (7, 12),
]


@pytest.mark.parametrize(("in_features", "out_features"), SIZES)
def test_linear_rows_do_not_depend_on_their_company(in_features, out_features):
    weight, bias = random(out_features, in_features, seed=1), random(out_features, seed=2)
    rows = random(3 * ROW_TILE + 5, in_features)
    assert_rows_independent(lambda x: linear(x, weight, bias), rows)
    torch.testing.assert_close(linear(rows, weight, bias), rows @ weight.T + bias, rtol=1e-4, atol=1e-4)


def test_linear_of_no_rows_is_empty():
    assert linear(torch.empty(0, 8), random(4, 8)).shape == (0, 4)


def test_a_row_that_is_not_finite_spoils_no_other():
    rows, weight = random(5, 24), random(12, 24, seed=1)
    expected = linear(rows, weight)
    rows[2] = torch.nan
    spoiled = linear(rows, weight)
    assert spoiled[2].isnan().all()
    assert torch.equal(spoiled[[0, 1, 3, 4]], expected[[0, 1, 3, 4]])


@pytest.mark.parametrize("hidden_size", [5, 33, 576, 1000, 4096, 8192])
def test_rms_norm(hidden_size):
    rows, weight = random(43, hidden_size) * 3, random(hidden_size, seed=1)
    assert_rows_independent(lambda x: rms_norm(x, weight, 1e-5), rows)
    wide = rows.double()
    expected = wide / (wide.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight.double()
    torch.testing.assert_close(rms_norm(rows, weight, 1e-5).double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [3, 33, 100, 1536, 1537, 8191])
def test_silu_and_multiply(size):
    rows = random(43, 2 * size) * 8
    assert_rows_independent(silu_and_multiply, rows)
    gate, up = rows.double().chunk(2, dim=-1)
    expected = torch.nn.functional.silu(gate) * up
    torch.testing.assert_close(silu_and_multiply(rows).double(), expected, rtol=1e-5, atol=1e-6)


def test_silu_of_extreme_values_is_finite():
    gate_up = torch.tensor([[-1000.0, -90.0, 0.0, 90.0, 1000.0, 1.0, 1.0, 1.0, 1.0, 1.0]])
    assert silu_and_multiply(gate_up).tolist() == [[0.0, pytest.approx(0), 0.0, 90.0, 1000.0]]


def test_rotation_turns_pairs_by_position_times_frequency():
    frequencies = torch.tensor([1.0, 0.25], dtype=torch.float64)
    table = RotaryTable(frequencies, 1.0, 100, CPU)
    x = torch.tensor([[[1.0, 0.0, 0.0, 2.0]]])  # pairs (1, 0) and (0, 2)
    rotated = rotate(x, table.lookup(torch.tensor([7])))
    expected = [math.cos(7), -2 * math.sin(7 / 4), math.sin(7), 2 * math.cos(7 / 4)]
    assert rotated.flatten().tolist() == pytest.approx(expected, abs=1e-6)


def test_rotation_rows_do_not_depend_on_their_company():
    for half, heads in [(32, 9), (40, 3), (7, 1)]:
        table = RotaryTable(10000.0 ** -torch.linspace(0, 1, half, dtype=torch.float64), 1.0, 64, CPU)
        flat = random(43, heads * 2 * half)

        def rotated(rows, heads=heads, table=table, flat=flat):
            # A row's position is where it stands in the whole
            position = [int((flat == row).all(-1).nonzero()[0, 0]) for row in rows]
            return rotate(rows.view(len(rows), heads, -1), table.lookup(torch.tensor(position)))

        assert_rows_independent(rotated, flat)


def test_angles_of_far_positions_are_exact():
    table = RotaryTable(torch.tensor([1.0], dtype=torch.float64), 0.5, BLOCK_POSITIONS + 10, CPU)
    cos, sin = table.lookup(torch.tensor([BLOCK_POSITIONS + 9])).flatten().tolist()
    assert cos == pytest.approx(0.5 * math.cos(BLOCK_POSITIONS + 9), abs=1e-7)
    assert sin == pytest.approx(0.5 * math.sin(BLOCK_POSITIONS + 9), abs=1e-7)
