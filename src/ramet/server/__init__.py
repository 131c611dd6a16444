"""The HTTP server: OpenAI-compatible and native interfaces over any engine."""
