"""The native interface on the wire."""
