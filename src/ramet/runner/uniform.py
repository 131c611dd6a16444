"""A counter-based random generator: the number for (seed, position) depends on nothing else.

The finaliser is SplitMix64's: Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
OOPSLA 2014.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ramet.model_io import Int64Array, UInt64Array

GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def uniform(seeds: UInt64Array, positions: Int64Array) -> NDArray[np.float64]:
    """One number in [0, 1) for each (seed, position), of 53 random bits.

    A seed's numbers are its SplitMix64 stream, started from the mixed seed so that the streams of
    neighbouring seeds have nothing in common.
    """
    states = _mix(seeds + GOLDEN_GAMMA) + (positions.astype(np.uint64) + np.uint64(1)) * GOLDEN_GAMMA
    return (_mix(states) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(bits: UInt64Array) -> UInt64Array:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
