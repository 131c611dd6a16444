"""A model's tokenizer: text and prompts to token ids.

Invariant: tokens are append-only. A prompt that goes on after a `Generated` part begins with the ids of
the prompt it was generated from, if the chat template renders that way, so its KV is found again. Knows
nothing of file formats.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from ramet.checks import check_int
from ramet.tokenizer.chat_template import ChatTemplate, Markup, Piece
from ramet.tokenizer.detokenizer import Detokenizer, decode
from ramet.tokenizer.text_encoder import Span, TextEncoder
from ramet.tokenizer.vocab import Vocab
from ramet.types import Generated, Prompt, Text, Tokens


@dataclass(frozen=True, slots=True)
class ControlTokens:
    """The tokens that begin and end sequences."""

    bos: int | None
    eos: frozenset[int]  # the end of text, and of a turn in chats
    add_bos: bool


class Tokenizer:
    """Encodes text and prompts. Safe to share between threads.

    Attributes:
        vocab: what each token id stands for.
        chat_template: the model's own, or ``None``: roles are then written as ``USER: …`` lines.
        bos_token_id: the token that begins a sequence, if the model has one.
        eos_token_ids: tokens that end a generation.
        add_bos: whether prompts begin with BOS.
    """

    def __init__(
        self,
        vocab: Vocab,
        encoder: TextEncoder,
        control: ControlTokens,
        chat_template: ChatTemplate | None = None,
    ) -> None:
        self.vocab = vocab
        self.chat_template = chat_template
        self.bos_token_id = control.bos
        self.eos_token_ids = control.eos
        self.add_bos = control.add_bos and control.bos is not None
        self._encoder = encoder
        self._template = chat_template or ChatTemplate.plain()

    @property
    def vocab_size(self) -> int:
        """Tokens in the vocabulary. The model's embedding may have more rows, as padding."""
        return len(self.vocab)

    def encode(self, text: str, *, parse_special: bool) -> list[int]:
        """The ids of a text that stands at the start, without BOS.

        With ``parse_special`` the names of special tokens become those tokens; otherwise they are text.
        """
        return self._encoder.encode(text, [(0, len(text))] if parse_special else [])

    def encode_continuation(self, text: str) -> list[int]:
        """The ids of a text that follows other tokens: no BOS, no dummy prefix, no special tokens."""
        return self._encoder.encode(text, [], continues=True)

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        """The ids of a prompt.

        BOS is put first if the model wants it and it is not there already; a prompt that begins with token
        ids is taken as it is. Generated text keeps its own ids. An empty prompt gives ``[]`` or BOS alone.

        Raises:
            InvalidRequest: the chat template refuses the roles; the message says which.
        """
        token_ids: list[int] = []
        run = _Run()
        pieces = self._pieces(prompt)
        for piece in pieces:
            match piece:
                case Markup(text):
                    run.add(text, trusted=True)
                case Text(text):
                    run.add(text, trusted=False)
                case Tokens(given):
                    token_ids += self._take(run, token_ids)
                    token_ids += given
                case Generated():
                    # The run ends here even if no generated id is kept: what stands before was encoded
                    # without knowing what follows when the text was generated.
                    token_ids += self._take(run, token_ids)
                    kept, rest = self._split_generated(piece)
                    token_ids += kept
                    run.add(rest, trusted=False)
        token_ids += self._take(run, token_ids)
        exact = bool(pieces) and isinstance(pieces[0], Tokens)
        if self.add_bos and not exact and token_ids[:1] != [self.bos_token_id]:
            assert self.bos_token_id is not None, "add_bos without a BOS token"
            token_ids.insert(0, self.bos_token_id)
        return token_ids

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of tokens; bytes that are no UTF-8 become U+FFFD. Special tokens are left out or named.

        Raises:
            InvalidRequest: an id is no integer, or not in the vocabulary.
        """
        for token_id in token_ids:
            check_int("token id", token_id, 0, self.vocab_size - 1)
        return decode(self.vocab, token_ids) if skip_special_tokens else self.vocab.display(token_ids)

    def render(self, prompt: Prompt) -> str:
        """The prompt as the model sees it, written out; a BOS that ``add_bos`` adds is left out.

        Raises:
            InvalidRequest: the chat template refuses the roles.
        """
        return "".join(
            self.vocab.display(piece.token_ids) if isinstance(piece, Tokens) else piece.text
            for piece in self._pieces(prompt)
        )

    def _pieces(self, prompt: Prompt) -> list[Piece]:
        if prompt.has_roles:
            return self._template.pieces(prompt, self.vocab.display, self._special_names)
        # Without roles people write templates by hand, so text may name special tokens.
        return [
            Markup(part.text) if isinstance(part, Text) else part
            for part in prompt.parts
            if isinstance(part, (Text, Generated, Tokens))
        ]

    @cached_property
    def _special_names(self) -> re.Pattern[str] | None:
        """Matches the name of any special token, the longest where several fit."""
        names = {self.vocab.text(token_id) for token_id in self.vocab.special_ids} - {""}
        longest_first = sorted(names, key=lambda name: (-len(name), name))
        return re.compile("|".join(map(re.escape, longest_first))) if names else None

    def _take(self, run: _Run, before: Sequence[int]) -> list[int]:
        text, trusted = run.take()
        return self._encoder.encode(text, trusted, continues=bool(before)) if text else []

    def _split_generated(self, part: Generated) -> tuple[tuple[int, ...], str]:
        """The longest run of its ids that spells a prefix of its text, and the rest of the text.

        Special tokens spell nothing: they are kept between text and dropped after it (EOS, mostly).
        """
        kept = end = 0  # ids, and characters that they spell
        length = 0  # characters that all ids so far spell
        detokenizer = Detokenizer(self.vocab)
        for index, token_id in enumerate(part.token_ids):
            piece = detokenizer.append(token_id)
            if not part.text.startswith(piece, length):
                break
            length += len(piece)
            if self.vocab.bytes_of(token_id) and not detokenizer.has_partial_character:
                kept, end = index + 1, length
        else:
            if detokenizer.has_partial_character and part.text[length:] == detokenizer.flush():
                # Cut inside a character: the ids are still exactly what the model wrote.
                return part.token_ids, ""
        return part.token_ids[:kept], part.text[end:]


class _Run:
    """Text between token ids, encoded in one go: merges do not see where its pieces met."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._length = 0
        self._trusted: list[Span] = []

    def add(self, text: str, *, trusted: bool) -> None:
        if not text:
            return
        begin, self._length = self._length, self._length + len(text)
        self._texts.append(text)
        if not trusted:
            return
        if self._trusted and self._trusted[-1][1] == begin:
            begin = self._trusted.pop()[0]
        self._trusted.append((begin, self._length))

    def take(self) -> tuple[str, list[Span]]:
        taken = "".join(self._texts), self._trusted
        self._texts, self._length, self._trusted = [], 0, []
        return taken
