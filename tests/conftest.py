"""Lies here so that tests may import each other's builders as ``from attention.plans import ...``."""
