"""A server as `ramet serve` runs it, in a thread, and an engine that repeats what it is told."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from contextlib import contextmanager

from parrot import EOS, ByteEncoder, byte_tokenizer, local_backend

from ramet.cli.listening import listen, url_of
from ramet.cli.serving import ServerProcess
from ramet.config import SchedulerConfig, ServerConfig
from ramet.engine.core import EngineCore
from ramet.runner.fake import FakeRunner
from ramet.server.app import create_app
from ramet.tokenizer.tokenizer import ControlTokens, Tokenizer
from ramet.tokenizer.vocab import TokenKind, build_vocab, byte_alphabet

PATIENCE = 30.0  # seconds, for what takes far less


def wait_for(condition, what="it"):
    """Until the condition holds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.002)


class Host:
    """A server that runs.

    Attributes:
        url: where.
        service: what its routes share.
    """

    def __init__(self, engine, config, listener):
        self.app = create_app(engine, config)
        self.service = self.app.state.service
        self.url = url_of(listener, config)
        self.address = listener.getsockname()
        self.server = ServerProcess(self.app, config, lambda: self._ready.set())
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self.server.run, args=([listener],))

    def __enter__(self):
        self._thread.start()
        assert self._ready.wait(PATIENCE)
        return self

    def __exit__(self, *_):
        self.server.stop()
        self._thread.join()

    @property
    def num_connections(self):
        return len(self.server.server_state.connections)

    def in_loop(self, function):
        """The result of a function, called on the server's event loop."""

        async def call():
            return function()

        return asyncio.run_coroutine_threadsafe(call(), self.server._loop).result(PATIENCE)

    def connect(self, *, receive_buffer=None):
        """A connection, for those who want to send and read as they like."""
        connection = socket.socket()
        if receive_buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.settimeout(PATIENCE)
        connection.connect(self.address)
        return connection


@contextmanager
def hosted(engine, *, send_buffer=None, **options):
    """A `Host` of an engine, which is shut down with it."""
    config = ServerConfig(port=0, **options)
    try:
        with listen(config) as listener:
            if send_buffer is not None:  # connections inherit it
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
            with Host(engine, config, listener) as host:
                yield host
    finally:
        engine.shutdown()


def request_bytes(path="/v1/completions", **body) -> bytes:
    """A POST as it goes over a connection."""
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(content)}"
    )
    return head.encode() + b"\r\n\r\n" + content


def echo(*, num_slots=65536, context_length=8192, **scheduler):
    """A backend whose model repeats each prompt, up to its first ``>``, and then says EOS."""

    def next_token(context):
        end = context.index(ord(">"))
        said = len(context) - 1 - end
        return context[said] if said < end else EOS

    return _backend(byte_tokenizer(), next_token, num_slots, context_length, scheduler)


def chatterbox(token_bytes, *, num_slots=65536, context_length=8192, on_step=None, **scheduler):
    """A backend whose model says one long token again and again."""
    letters = byte_alphabet()
    names = [*(letters[byte] for byte in range(256)), "x" * token_bytes, "<eos>"]
    kinds = [*([TokenKind.NORMAL] * 257), TokenKind.SPECIAL]
    vocab = build_vocab(names, kinds, "byte_level")
    control = ControlTokens(bos=None, eos=frozenset({257}), add_bos=False)

    def next_token(context):
        if on_step is not None:
            on_step(context)
        return 256

    return _backend(
        Tokenizer(vocab, ByteEncoder(), control), next_token, num_slots, context_length, scheduler
    )


def _backend(tokenizer, next_token, num_slots, context_length, scheduler):
    runner = FakeRunner(
        next_token,
        num_slots=num_slots,
        vocab_size=len(tokenizer.vocab),
        context_length=context_length,
    )
    core = EngineCore(
        runner,
        SchedulerConfig(**scheduler),
        vocab=tokenizer.vocab,
        eos_token_ids=tokenizer.eos_token_ids,
    )
    return local_backend(tokenizer, core)
