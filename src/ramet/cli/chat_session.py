"""A conversation: its prompt, its turns and its commands, over any engine or endpoint.

Invariant: the prompt always ends after a whole turn (or the system message), so a failed or interrupted
answer leaves it as it was. It must not know terminals: it is given what to write with.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from ramet.errors import InvalidRequest, PromptTooLong
from ramet.facade import Facade
from ramet.sampling_params import SamplingParams
from ramet.stats import EngineStats
from ramet.types import Completion, Generated, Prompt, RoleBegin, RoleEnd, Text

HELP = """\
/system TEXT   begin again with this system message; without TEXT, show it
/reset         forget the conversation, keep the system message
/stats         the engine's counters
/save FILE     write the conversation as JSON
/exit          leave
//...          a message that begins with a slash"""


class ChatSession:
    """Takes lines, one after another: messages and commands.

    Args:
        facade: the engine or endpoint that answers.
        sampling: how it answers.
        system: the system message, if any.
        write: called with the pieces of an answer.
        note: called with lines about it.
        read_stats: the engine's counters, if it has any.
    """

    def __init__(
        self,
        facade: Facade,
        sampling: SamplingParams,
        system: str | None = None,
        *,
        write: Callable[[str], None],
        note: Callable[[str], None],
        read_stats: Callable[[], EngineStats] | None = None,
    ) -> None:
        self.ended = False
        self._facade = facade
        self._sampling = asdict(sampling)
        self._write = write
        self._note = note
        self._read_stats = read_stats
        self._saved: set[Path] = set()
        self._begin(system)

    @property
    def messages(self) -> list[dict[str, str]]:
        """The conversation so far, as ``{"role", "content"}``."""
        return self._prompt.messages()

    def take(self, line: str) -> None:
        """Answer a message or do a command.

        Raises:
            InvalidRequest: an unknown command, or one that lacks its argument.
            RametError: the answer failed.
        """
        line = line.strip()
        if line.startswith("//"):
            self._answer(line[1:])
        elif line.startswith("/"):
            command, _, argument = line.partition(" ")
            self._command(command, argument.strip())
        elif line:
            self._answer(line)

    # ---------------------------------------------------------------------------------------- answering

    def _begin(self, system: str | None) -> None:
        self._system = system
        self._prompt = Prompt()
        if system:
            self._prompt = self._prompt.append(RoleBegin("system"), Text(system), RoleEnd("system"))

    def _answer(self, message: str) -> None:
        prompt = self._prompt.append(
            RoleBegin("user"), Text(message), RoleEnd("user"), RoleBegin("assistant")
        )
        text = ""
        token_ids: tuple[int, ...] = ()
        completion: Completion | None = None
        started = time.monotonic()
        try:
            for chunk in self._facade.stream(prompt, **self._sampling):
                text += chunk.text
                token_ids += chunk.token_ids
                completion = chunk.completion
                self._write(chunk.text)
        except KeyboardInterrupt:
            completion = None
        except PromptTooLong as error:
            raise PromptTooLong(f"{error}; /reset begins a new conversation") from error
        finally:
            if text and not text.endswith("\n"):
                self._write("\n")
        if completion is None and not text:
            self._note("stopped; the question is forgotten")
            return
        self._prompt = prompt.append(Generated(text, token_ids), RoleEnd("assistant"))
        self._note(_figures(completion, len(token_ids), time.monotonic() - started))

    # ---------------------------------------------------------------------------------------- commands

    def _command(self, command: str, argument: str) -> None:
        match command:
            case "/help":
                self._note(HELP)
            case "/reset":
                self._begin(self._system)
                self._note("a new conversation")
            case "/system":
                self._change_system(argument)
            case "/stats":
                self._show_stats()
            case "/save":
                self._save(argument)
            case "/exit" | "/quit":
                self.ended = True
            case _:
                raise InvalidRequest(
                    f"unknown command {command}; /help shows them, and // begins a message with /"
                )

    def _change_system(self, text: str) -> None:
        if text:
            self._begin(text)
            self._note("a new conversation, with this system message")
        else:
            self._note(self._system or "no system message (the model's own, if its template has one)")

    def _show_stats(self) -> None:
        if self._read_stats is None:
            raise InvalidRequest("/stats: this backend has no counters")
        counters = asdict(self._read_stats())
        width = max(map(len, counters))
        self._note("\n".join(f"{name:<{width}}  {value:,}" for name, value in counters.items()))

    def _save(self, name: str) -> None:
        if not name:
            raise InvalidRequest("/save needs a file name, as in /save talk.json")
        path = Path(name).expanduser()
        if path.exists() and path not in self._saved:
            raise InvalidRequest(f"/save: {path} is there already; choose another name")
        try:
            path.write_text(json.dumps(self.messages, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise InvalidRequest(f"/save: cannot write {path}: {error.strerror}") from error
        self._saved.add(path)
        self._note(f"saved {len(self.messages)} messages to {path}")


def _figures(completion: Completion | None, num_tokens: int, seconds: float) -> str:
    """One line about an answer."""
    speed = f"{num_tokens} tokens in {seconds:.1f} s ({num_tokens / max(seconds, 1e-9):.1f} tok/s)"
    if completion is None:
        return f"stopped after {speed}"
    usage = completion.usage
    cached = f"prompt {usage.prompt_tokens} tokens, {usage.cached_tokens} of them cached"
    cut = " · cut at max tokens" if completion.finish_reason == "length" else ""
    return f"{speed} · {cached}{cut}"
