"""An engine without a model for chats: it recites a reply in the assistant's turn, whatever was asked."""

from __future__ import annotations

import re

from parrot import local_backend

from ramet.config import SchedulerConfig
from ramet.engine.core import EngineCore
from ramet.grammar.compiler import GrammarCompiler
from ramet.runner.fake import FakeRunner
from ramet.tokenizer.chat_template import ChatTemplate
from ramet.tokenizer.tokenizer import ControlTokens, Tokenizer
from ramet.tokenizer.vocab import TokenKind, build_vocab, byte_alphabet

TURN = "<|turn|>"
SPECIAL = ("<eos>", TURN, "[TOOL_CALLS]")
EOS, TURN_ID = 256, 257

PLAIN = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}" + TURN + "{% endif %}"
)
"""Knows no tools."""

_KNOWS_TOOLS = (
    "{% for t in tools or [] %}{{ t | tojson }}\n{% endfor %}"
    "{% for m in messages %}{{ m.role }}: {{ m.content }}{% for c in m.tool_calls or [] %}"
    "{{ c.function.name }}({{ c.function.arguments | tojson }}){% endfor %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}" + TURN + "{% endif %}"
)
HERMES = "{# <tool_call> #}" + _KNOWS_TOOLS
MISTRAL = "{# [TOOL_CALLS] #}" + _KNOWS_TOOLS
LLAMA = '{# {"name": function name, "parameters": dictionary of arguments} #}' + _KNOWS_TOOLS


class _Bytes:
    """Each byte of the text is a token; in trusted text, the names of special tokens are those tokens."""

    def encode(self, text, trusted, *, continues=False):
        ids, position = [], 0
        for name in re.finditer("|".join(map(re.escape, SPECIAL)), text):
            if any(begin <= name.start() and name.end() <= end for begin, end in trusted):
                ids += [*text[position : name.start()].encode(), 256 + SPECIAL.index(name[0])]
                position = name.end()
        return [*ids, *text[position:].encode()]


def chat_tokenizer(template: str | None = PLAIN) -> Tokenizer:
    letters = byte_alphabet()
    vocab = build_vocab(
        [*(letters[byte] for byte in range(256)), *SPECIAL],
        [*([TokenKind.NORMAL] * 256), *([TokenKind.SPECIAL] * len(SPECIAL))],
        "byte_level",
    )
    control = ControlTokens(bos=None, eos=frozenset({EOS}), add_bos=False)
    return Tokenizer(vocab, _Bytes(), control, ChatTemplate(template) if template else None)


def reciting(reply: str = "", *, template: str = PLAIN, on_step=None):
    """A backend that answers every chat with ``reply``, in which special tokens may be named, and EOS.

    Under a constraint it writes what it recites as long as that is allowed, and else whatever is.
    """
    tokenizer = chat_tokenizer(template)
    data = _Bytes().encode(reply, [(0, len(reply))])

    def next_token(context):
        if on_step is not None:
            on_step(context)
        turns = [index for index, token in enumerate(context) if token == TURN_ID]
        said = len(context) - 1 - (turns[-1] if turns else -1)
        return data[said] if said < len(data) else EOS

    vocab_size = len(tokenizer.vocab)
    runner = FakeRunner(next_token, num_slots=16384, vocab_size=vocab_size, context_length=8192)
    core = EngineCore(
        runner,
        SchedulerConfig(),
        vocab=tokenizer.vocab,
        eos_token_ids=tokenizer.eos_token_ids,
        grammars=GrammarCompiler(tokenizer, runner.vocab_size),
    )
    return local_backend(tokenizer, core)
