"""OpenAI's interface: chat completions, completions, models."""
