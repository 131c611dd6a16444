"""Models: what their files say, and the arithmetic of each architecture."""
