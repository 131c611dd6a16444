from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from contextlib import closing

import pytest
from hosting import chatterbox, hosted

from ramet import BackendError, EngineDead, InvalidRequest, PromptTooLong, SamplingParams
from ramet.cli.chat_session import ChatSession
from ramet.facade import Facade
from ramet.lang.backends.mock import MockBackend, token_ids_of
from ramet.types import Generated


class Talk:
    """A session over a mock, and what it has written."""

    def __init__(self, replies, system=None, facade=Facade):
        self.backend = MockBackend(replies)
        self.written, self.notes = "", []
        sampling = SamplingParams(temperature=0, max_tokens=9)
        self.session = ChatSession(
            facade(self.backend), sampling, system, write=self._write, note=self.notes.append
        )

    def _write(self, text):
        self.written += text

    def say(self, *lines):
        for line in lines:
            self.session.take(line)
        return self


def test_a_turn_continues_the_prompt_with_the_tokens_of_the_answer():
    talk = Talk(["I am well.", "Goodbye."], system="Be brief.").say("How are you?", "Bye!")
    assert talk.written == "I am well.\nGoodbye.\n"
    first, second = talk.backend.calls
    assert first.text == "<|system|>Be brief.<|end|><|user|>How are you?<|end|><|assistant|>"
    assert second.prompt.parts[: len(first.prompt.parts)] == first.prompt.parts
    assert Generated("I am well.", token_ids_of("I am well.")) in second.prompt.parts
    assert second.params.max_tokens == 9


def test_a_line_after_each_answer_tells_tokens_and_what_was_cached():
    (line,) = Talk("one two three").say("count").notes
    assert line.startswith("3 tokens in ")
    assert "of them cached" in line


def test_blank_lines_are_nothing_and_two_slashes_begin_a_message():
    talk = Talk("ok").say("", "   ", "//etc is a folder")
    (call,) = talk.backend.calls
    assert call.prompt.messages()[0] == {"role": "user", "content": "/etc is a folder"}


def test_reset_keeps_the_system_message_and_system_changes_it():
    talk = Talk("ok", system="A").say("hello", "/reset")
    assert talk.session.messages == [{"role": "system", "content": "A"}]
    talk.say("/system", "/system B is the new one")
    assert "A" in talk.notes
    assert talk.session.messages == [{"role": "system", "content": "B is the new one"}]


def test_a_failed_answer_leaves_the_conversation_as_it_was():
    talk = Talk(["fine", BackendError("no power")]).say("one")
    before = talk.session.messages
    with pytest.raises(BackendError, match="no power"):
        talk.say("two")
    assert talk.session.messages == before


def test_a_prompt_that_is_too_long_points_to_reset():
    with pytest.raises(PromptTooLong, match=r"too long; /reset begins"):
        Talk([PromptTooLong("too long")]).say("one")


def test_save_writes_the_messages_and_overwrites_only_what_it_saved(tmp_path):
    talk = Talk("ja, günstig").say("hello", f"/save {tmp_path}/talk.json", f"/save {tmp_path}/talk.json")
    saved = json.loads((tmp_path / "talk.json").read_text(encoding="utf-8"))
    assert saved == [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "ja, günstig"}]
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(InvalidRequest, match="is there already"):
        talk.say(f"/save {tmp_path}/mine.txt")
    with pytest.raises(InvalidRequest, match="cannot write"):
        talk.say(f"/save {tmp_path}/no/folder.json")
    with pytest.raises(InvalidRequest, match="needs a file name"):
        talk.say("/save")


def test_unknown_commands_are_refused_and_help_shows_those_there_are():
    talk = Talk("ok").say("/help")
    for command in ("/reset", "/system", "/stats", "/save", "/exit"):
        assert command in talk.notes[0]
    with pytest.raises(InvalidRequest, match="unknown command /frobnicate"):
        talk.say("/frobnicate now")
    with pytest.raises(InvalidRequest, match="no counters"):
        talk.say("/stats")


def test_an_interrupted_answer_is_kept_as_far_as_it_came():
    class Interrupted(Facade):
        """The interrupt reaches the caller between two pieces."""

        def stream(self, prompt, **sampling):
            with closing(super().stream(prompt, **sampling)) as chunks:
                yield next(chunks)
                raise KeyboardInterrupt

    talk = Talk("one two", facade=Interrupted).say("count")
    assert talk.session.messages[-1] == {"role": "assistant", "content": "one"}
    assert talk.notes[-1].startswith("stopped after 1 tokens")
    assert talk.written == "one\n"


# ------------------------------------------------------------------------------------------ the command


def test_a_pipe_holds_one_message_per_line_and_stdout_only_answers(ramet, use_mock):
    engines = use_mock(["first answer", "second answer"])
    outcome = ramet("chat", "--system", "S", stdin="one\n\ntwo\n/stats\n/exit\nnot read\n")
    assert outcome.exit_code == 0, outcome.stderr
    assert outcome.stdout == "first answer\nsecond answer\n"
    assert "tok/s" in outcome.stderr
    assert "steps" in outcome.stderr
    assert "\x1b" not in outcome.stdout + outcome.stderr
    assert engines[0].is_shut_down


def test_a_message_that_fails_does_not_stop_those_after_it(ramet, use_mock):
    use_mock([BackendError("hiccup"), "recovered"])
    outcome = ramet("chat", stdin="one\ntwo")
    assert outcome.stdout == "recovered\n"
    assert "error: hiccup" in outcome.stderr
    assert outcome.exit_code == 1


def test_a_dead_engine_ends_the_chat(ramet, use_mock):
    use_mock([EngineDead("gone"), "never"])
    outcome = ramet("chat", stdin="one\ntwo\n")
    assert (outcome.stdout, outcome.exit_code) == ("", 1)


def test_wrong_sampling_options_are_refused_before_a_model_is_loaded(ramet, use_mock):
    engines = use_mock()
    outcome = ramet("chat", "--temperature", "-1", stdin="hi\n")
    assert outcome.exit_code == 1
    assert not engines


SLOW_CHAT = """
import asyncio, sys
sys.path.insert(0, sys.argv.pop(1))
import ramet as rm
from cli.conftest import MockEngine
from ramet.cli.app import main
from ramet.lang.backends.mock import MockBackend

class Slow(MockBackend):
    async def stream(self, prompt, params):
        async for chunk in super().stream(prompt, params):
            yield chunk
            await asyncio.sleep(600 if len(self.calls) == 1 else 0)

rm.Engine = lambda model: MockEngine(Slow(["slow answer", "quick answer"]))
main()
"""


def start_slow_chat(tests):
    command = [sys.executable, "-c", SLOW_CHAT, str(tests), "chat"]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_ctrl_c_stops_the_answer_and_not_the_chat(request):
    with start_slow_chat(request.config.rootpath / "tests") as chat:
        chat.stdin.write("hello\n")
        chat.stdin.flush()
        assert chat.stdout.read(4) == "slow"
        chat.send_signal(signal.SIGINT)
        stdout, stderr = chat.communicate("again\n", timeout=30)
    assert stdout == "\nquick answer\n"
    assert "stopped after 1 tokens" in stderr
    assert "Traceback" not in stderr
    assert chat.returncode == 0


def test_ctrl_c_while_waiting_for_a_line_ends_the_chat(request):
    with start_slow_chat(request.config.rootpath / "tests") as chat:
        chat.stdin.write("/help\n")
        chat.stdin.flush()
        assert "/system" in chat.stderr.readline()
        chat.send_signal(signal.SIGINT)
        _, stderr = chat.communicate(timeout=30)
    assert chat.returncode == 130
    assert "Traceback" not in stderr


@pytest.mark.model
def test_the_second_turn_finds_the_first_in_the_cache(ramet):
    outcome = ramet(
        "chat",
        "--temperature",
        "0",
        "--max-tokens",
        "24",
        stdin="What is the capital of France?\nAnd of Italy?\n",
    )
    assert outcome.exit_code == 0, outcome.stderr
    assert "Paris" in outcome.stdout
    first, second = [line for line in outcome.stderr.splitlines() if "tok/s" in line]
    assert ", 0 of them cached" in first
    num_first = int(re.search(r"prompt (\d+) tokens", first)[1])
    assert int(re.search(r", (\d+) of them cached", second)[1]) > num_first  # the first answer as well


def test_a_conversation_with_the_model_of_a_server(ramet):
    with hosted(chatterbox(4), api_keys=("sesame",)) as host:
        flags = ["--url", host.url, "--api-key", "sesame", "--max-tokens", 2]
        outcome = ramet("chat", *flags, stdin="Hello\n/stats\n")
        assert outcome.stdout == "xxxxxxxx\n", outcome.stderr
        assert "prompt_tokens" in outcome.stderr
        refused = ramet("chat", "--url", host.url, stdin="Hello\n")
        assert refused.exit_code == 1
        assert "key" in refused.stderr


def test_a_server_has_its_own_model(ramet):
    outcome = ramet("chat", "--url", "http://127.0.0.1:1", "--model", "other.gguf")
    assert outcome.exit_code == 1
    assert "--url and --model" in outcome.stderr
