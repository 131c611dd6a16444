"""Matrices of every format, and what the kernels make of them, spelled out in NumPy.

`Expected.product` follows the arithmetic: inputs rounded to 8 bits in blocks of 32, sums of whole numbers,
one scale per block. It differs from the kernels by rounding in float32 alone. `Expected.tolerance` bounds how
far that is from the product of the decoded weights with the inputs as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import gguf
import numpy as np

from ramet import kernels

BLOCKS = ("Q4_0", "Q4_1", "Q8_0")
FLOATS = ("F32", "F16", "BF16", "F32 kept", "F16 kept", "BF16 kept")
KINDS = (*BLOCKS, "floats as q8", *FLOATS)

EPSILON = 2.0**-24  # of float32: how far rounding to nearest moves a value, relative to it
BF16_EPSILON = 2.0**-8


def bf16_bits(values):
    """Round to nearest, ties to even."""
    bits = np.asarray(values, dtype=np.float32).view(np.uint32)
    return (bits + 0x7FFF + (bits >> 16 & 1) >> 16).astype(np.uint16)


def bf16(values):
    """Values rounded to bfloat16, as float64."""
    return (bf16_bits(values).astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def by_blocks(values):
    """``[rows, columns]`` as ``[rows, blocks, 32]``, with zeros behind the end."""
    rows, columns = values.shape
    return np.pad(values, ((0, 0), (0, -columns % 32))).reshape(rows, -1, 32)


@dataclass(frozen=True)
class Rounded:
    """Inputs as the quantized products take them."""

    numbers: np.ndarray  # [rows, blocks, 32] whole numbers of -127 .. 127
    scales: np.ndarray  # [rows, blocks]

    @classmethod
    def of(cls, x):
        blocks = by_blocks(x)
        most = np.abs(blocks).max(axis=2)
        with np.errstate(divide="ignore", over="ignore"):
            inverse = np.where(most > 0, np.float32(127) / most, np.float32(0)).astype(np.float32)
        usable = np.isfinite(inverse)  # else they are so small that nothing of them is left
        inverse = np.where(usable, inverse, np.float32(0))
        # Like the kernels, bit for bit: what is rounded to bf16 later may stand between two values
        scales = np.where(usable, most * (np.float32(1) / np.float32(127)), np.float32(0))
        return cls(np.rint(blocks * inverse[:, :, None]).astype(np.float64), scales.astype(np.float64))


@dataclass(frozen=True)
class Expected:
    """A matrix: ``numbers * scales + minima`` per block, or plain ``values``."""

    decoded: np.ndarray  # [outputs, inputs] float64: what the file or the caller says
    numbers: np.ndarray | None = None  # [outputs, blocks, 32]
    scales: np.ndarray | None = None  # [outputs, blocks]
    minima: np.ndarray | None = None
    values: np.ndarray | None = None  # [outputs, inputs] float64, as they are kept
    rounds_inputs: bool = False  # to bf16

    def product(self, x):
        """(What the kernels compute, with exact sums; how far sums in float32 may be from it)."""
        if self.values is not None:
            inputs = bf16(x) if self.rounds_inputs else x.astype(np.float64)
            terms = np.abs(inputs) @ np.abs(self.values).T
            return inputs @ self.values.T, (x.shape[1] + 2) * EPSILON * terms + 1e-37
        rounded = Rounded.of(x)
        scales = self.scales[None] * rounded.scales[:, None]  # [rows, outputs, blocks]
        dots = np.einsum("rbi,obi->rob", rounded.numbers, self.numbers)
        result, terms = (dots * scales).sum(2), np.abs(dots * scales).sum(2)
        if self.minima is not None:
            sums = bf16((rounded.numbers.sum(2) * rounded.scales).astype(np.float32))
            result = result + sums @ self.minima.T
            terms = terms + np.abs(sums) @ np.abs(self.minima).T
        return result, (2 * self.numbers.shape[1] + 4) * EPSILON * terms + 1e-37

    def tolerance(self, x):
        """How far the product may be from ``x @ decoded.T``: half a step of 8 bits for each input, and what
        rounding to bf16 costs."""
        x, decoded = x.astype(np.float64), np.abs(self.decoded)
        if self.values is not None:
            kept = np.abs(self.values - self.decoded)
            lost = BF16_EPSILON * 1.01 if self.rounds_inputs else 0.0
            return np.abs(x) @ (kept + lost * decoded).T
        half_step = np.abs(by_blocks(x)).max(axis=2) / 254 * (1 + 1e-5)
        stored = self.numbers * self.scales[:, :, None]
        bound = half_step @ np.abs(stored).sum(2).T
        if self.minima is None:
            unlike = np.abs(stored - by_blocks(self.decoded))  # not zero where the kernels quantized
            return bound + np.abs(by_blocks(x).reshape(len(x), -1)) @ unlike.reshape(len(unlike), -1).T
        # A minimum and the sum of inputs it is multiplied with are rounded to bf16
        sums = np.abs(by_blocks(x).sum(2)) + 32 * half_step
        return bound + (32 * half_step + 2.02 * BF16_EPSILON * sums) @ np.abs(self.minima).T


def pack(kind, weights):
    """Weights ``[outputs, inputs]`` float32 in a format: (the packed matrix, what is expected of it)."""
    native = kernels.load_native()
    columns = weights.shape[1]
    if kind in BLOCKS:
        type_ = gguf.GGMLQuantizationType[kind]
        data = gguf.quants.quantize(weights, type_)
        decoded = gguf.quants.dequantize(data, type_).astype(np.float64)
        return native.pack(kind, data, columns), _expected_blocks(kind, data, decoded)
    if kind == "floats as q8":
        blocks = by_blocks(weights)
        scales = (np.abs(blocks).max(axis=2) / np.float32(127)).astype(np.float16).astype(np.float32)
        with np.errstate(divide="ignore", invalid="ignore"):
            numbers = np.where(scales[:, :, None] > 0, blocks / scales[:, :, None], np.float32(0))
        numbers = np.rint(np.clip(numbers, -127, 127)).astype(np.float64)
        decoded = weights.astype(np.float64)
        return native.pack_q8(weights), Expected(decoded, numbers, scales.astype(np.float64))
    type_, _, kept = kind.partition(" ")
    stored = {"F32": weights, "F16": weights.astype(np.float16), "BF16": bf16_bits(weights)}[type_]
    decoded = bf16(weights) if type_ == "BF16" else stored.astype(np.float64)
    packed = native.pack(type_, np.ascontiguousarray(stored).view(np.uint8), columns, keep_f32=bool(kept))
    values = decoded if kept else bf16(decoded.astype(np.float32))
    return packed, Expected(decoded, values=values, rounds_inputs=not kept)


def _expected_blocks(kind, data, decoded):
    header = {"Q4_0": 2, "Q4_1": 4, "Q8_0": 2}[kind]
    payload = 32 if kind == "Q8_0" else 16
    blocks = data.reshape(len(data), -1, header + payload)
    halves = np.ascontiguousarray(blocks[:, :, :header]).view("<f2").astype(np.float64)
    scales, packed = halves[:, :, 0], blocks[:, :, header:]
    if kind == "Q8_0":
        return Expected(decoded, packed.view(np.int8).astype(np.float64), scales)
    numbers = np.concatenate((packed & 15, packed >> 4), axis=2).astype(np.float64) - 8
    minima = bf16((halves[:, :, 1] + 8 * scales).astype(np.float32)) if kind == "Q4_1" else None
    return Expected(decoded, numbers, scales, minima)


def random_weights(rng, outputs, inputs, magnitude=0.3):
    """Weights of rows of different size, around a middle that is not zero, so that minima matter."""
    sizes = 2.0 ** rng.integers(-4, 4, (outputs, 1))
    return ((rng.standard_normal((outputs, inputs)) + 0.5) * sizes * magnitude).astype(np.float32)


def linear(isa, matrix, x):
    """The product by the kernels of an instruction set."""
    out = np.full((len(x), matrix.shape[0]), np.nan, dtype=np.float32)
    kernels.load_native().linear(isa, matrix, x, out)
    return out
