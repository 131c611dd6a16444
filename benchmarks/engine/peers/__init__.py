"""Engines behind one line-by-line interface. Each runs in its own Python and imports nothing of Ramet's."""
