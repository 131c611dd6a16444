"""Ramet: language-model programs, and an engine made for them."""
