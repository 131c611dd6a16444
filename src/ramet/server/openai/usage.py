"""Counting the tokens of one request over all its prompts and completions."""

from __future__ import annotations

from ramet.server.openai.responses import UsageBody


class UsageCount:
    """The tokens of one request.

    A prompt counts once, however many completions it has. Cached are those of its tokens that none of them
    had to compute: the smallest number of all, since the others find what the first one has computed.

    Args:
        prompt_tokens: of all prompts.
    """

    def __init__(self, prompt_tokens: int) -> None:
        self._prompt_tokens = prompt_tokens
        self._cached: dict[int, int] = {}  # by the index of the prompt, once a completion of it has ended
        self._completion_tokens = 0

    def add(self, num_tokens: int) -> None:
        """Count tokens of a completion."""
        self._completion_tokens += num_tokens

    def end(self, prompt_index: int, cached_tokens: int) -> None:
        """A completion of a prompt has ended, and says how much of the prompt it found."""
        self._cached[prompt_index] = min(cached_tokens, self._cached.get(prompt_index, cached_tokens))

    def body(self) -> UsageBody:
        """The counts so far."""
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": self._completion_tokens,
            "total_tokens": self._prompt_tokens + self._completion_tokens,
            "prompt_tokens_details": {"cached_tokens": sum(self._cached.values())},
        }

    def facts(self) -> dict[str, int]:
        """The counts so far, for the log."""
        return {
            "prompt_tokens": self._prompt_tokens,
            "cached_tokens": sum(self._cached.values()),
            "completion_tokens": self._completion_tokens,
        }
