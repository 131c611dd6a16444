"""Ramet beside other engines, run by run: ``python benchmarks/engine --help``."""
