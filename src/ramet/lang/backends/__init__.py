"""Backends that are not engines: made replies for tests."""
