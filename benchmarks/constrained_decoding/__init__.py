"""The parts of `benchmarks/constrained.py`."""
