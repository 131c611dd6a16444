"""`Endpoint`: a Ramet server as a language backend, and as users hold it.

Invariant: whatever the caller's loop, requests are made on the background event loop, where the connections
live. What comes back, errors included, is what an engine in this process would give. It must not know how
bytes are sent (`http`) or what they look like (`ramet.wire`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import msgspec

from ramet.errors import EngineDead, UnsupportedFeature
from ramet.event_loop import closing, on_loop, relay, run_sync
from ramet.facade import Facade
from ramet.lang.interpreter import plain_text
from ramet.sampling_params import SamplingParams
from ramet.stats import EngineStats
from ramet.tokenizer.chat_template import ChatTemplate
from ramet.types import (
    DEFAULT_OPTIONS,
    Chunk,
    Completion,
    Prompt,
    RequestOptions,
    Score,
    Tokens,
)
from ramet.wire import BadAnswer, Output, Scores, encode_params, encode_prompt, error_from
from ramet.wire.outputs import completion_of, logprobs_of, score_of

if TYPE_CHECKING:
    from ramet.lang.backends.http import HttpClient

T = TypeVar("T")


class EndpointBackend:
    """Satisfies `ramet.backend.Backend`.

    Args:
        http: the way to the server.
        cache_salt, priority: of requests whose own options say nothing about them.
    """

    def __init__(self, http: HttpClient, *, cache_salt: str = "", priority: int = 0) -> None:
        self._http = http
        self._own = RequestOptions(cache_salt=cache_salt, priority=priority)
        self._template = ChatTemplate.plain()

    async def connect(self) -> None:
        """Learn how the server's model writes conversations.

        Raises:
            BackendError: no Ramet server answers, or it takes another key.
        """
        info = await self.model_info()
        source = info.get("chat_template")
        if isinstance(source, str):
            self._template = ChatTemplate(
                source, bos_token=str(info.get("bos_token", "")), eos_token=str(info.get("eos_token", ""))
            )

    # -------------------------------------------------------------------------------- the backend

    async def generate(
        self, prompt: Prompt, params: SamplingParams, *, options: RequestOptions = DEFAULT_OPTIONS
    ) -> list[Completion]:
        content = await self._post("/generate", self._generation(prompt, params, options))
        answer: Output | list[Output] = _decode(content, _OUTPUTS)
        outputs = answer if isinstance(answer, list) else [answer]
        return [completion_of([output]) for output in outputs]

    def stream(
        self, prompt: Prompt, params: SamplingParams, *, options: RequestOptions = DEFAULT_OPTIONS
    ) -> AsyncGenerator[Chunk, None]:
        return relay(self._stream(self._generation(prompt, params, options)))

    async def score(
        self,
        prompt: Prompt,
        continuations: Sequence[str | Sequence[int]],
        *,
        top_logprobs: int = 0,
        options: RequestOptions = DEFAULT_OPTIONS,
    ) -> list[Score]:
        body = self._body(prompt, options)
        body["continuations"] = [each if isinstance(each, str) else list(each) for each in continuations]
        body["top_logprobs"] = top_logprobs
        answer: Scores = _decode(await self._post("/score", body), _SCORES)
        return [score_of(output) for output in answer.scores]

    async def cache_prefix(
        self, prompt: Prompt, *, lease_seconds: float = 0.0, options: RequestOptions = DEFAULT_OPTIONS
    ) -> None:
        await self._post("/cache_prefix", {**self._body(prompt, options), "lease_seconds": lease_seconds})

    def render(self, prompt: Prompt) -> str:
        """The prompt as the server's model sees it. Token ids are shown by their numbers."""
        if not prompt.has_roles:
            return plain_text(prompt)
        pieces = self._template.pieces(prompt, _numbers)
        return "".join(
            _numbers(piece.token_ids) if isinstance(piece, Tokens) else piece.text for piece in pieces
        )

    # ------------------------------------------------------------------------------------- control

    async def stats(self) -> EngineStats:
        """The counters since the server's engine started.

        Raises:
            EngineDead: it has stopped.
        """
        counters = (await self.server_info()).get("stats")
        if counters is None:
            raise EngineDead(f"the engine of {self._http.url} has stopped")
        return msgspec.convert(counters, EngineStats)

    async def flush_cache(self) -> bool:
        """Drop all cached KV; true if every slot is free now.

        Raises:
            InvalidRequest: requests are running.
        """
        return bool(_object(await self._post("/flush_cache", {})).get("success"))

    async def server_info(self) -> dict[str, Any]:
        return _object(await on_loop(self._http.request("GET", "/server_info")))

    async def model_info(self) -> dict[str, Any]:
        return _object(await on_loop(self._http.request("GET", "/get_model_info")))

    async def aclose(self) -> None:
        """Close all connections."""
        await on_loop(self._http.aclose())

    # ----------------------------------------------------------------------------------- internals

    async def _post(self, path: str, body: dict[str, Any]) -> bytes:
        return await on_loop(self._http.request("POST", path, body))

    async def _stream(self, body: dict[str, Any]) -> AsyncGenerator[Chunk, None]:
        so_far: dict[int, list[Output]] = {}
        events = self._http.events("/generate", {**body, "stream": True, "incremental": True})
        async with closing(events) as contents:
            async for content in contents:
                if content.startswith(b'{"error"'):
                    raise error_from(content)
                output: Output = _decode(content, _OUTPUT)
                outputs = so_far.setdefault(output.index, [])
                outputs.append(output)
                ended = output.meta_info.finish_reason is not None
                yield Chunk(
                    output.text,
                    tuple(output.output_ids),
                    output.index,
                    logprobs_of(output),
                    completion_of(outputs) if ended else None,
                )

    def _body(self, prompt: Prompt, options: RequestOptions) -> dict[str, Any]:
        return {
            "prompt": encode_prompt(prompt),
            "cache_salt": options.cache_salt or self._own.cache_salt,
            "priority": options.priority or self._own.priority,
        }

    def _generation(self, prompt: Prompt, params: SamplingParams, options: RequestOptions) -> dict[str, Any]:
        return {
            **self._body(prompt, options),
            "sampling_params": encode_params(params),
            "return_text_in_logprobs": True,
        }


_OUTPUT = msgspec.json.Decoder(Output)
_OUTPUTS = msgspec.json.Decoder(Output | list[Output])
_SCORES = msgspec.json.Decoder(Scores)
_OBJECT = msgspec.json.Decoder(dict[str, Any])


def _decode(content: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    try:
        return decoder.decode(content)
    except msgspec.MsgspecError as error:
        raise BadAnswer(f"what answers is no Ramet server of this version: {error}") from error


def _object(content: bytes) -> dict[str, Any]:
    return _decode(content, _OBJECT)


def _numbers(token_ids: Sequence[int]) -> str:
    return f"<|{','.join(map(str, token_ids))}|>"


class Endpoint(Facade):
    """A Ramet server, held like an `Engine`: pass it as ``backend=``, or call it. A context manager.

    Args:
        url: of the server, such as ``http://127.0.0.1:8000``.
        api_key: the key it wants, if it wants one.
        timeout: seconds without a byte after which a request is given up; ``None``: never.
        verify: check the certificate of an ``https`` server.
        cache_salt: cached prefixes are shared only with requests of the same salt.
        priority: requests of a lower value are admitted first.
        max_connections: at a time; further requests wait for one.
        max_retries: how often a request is sent again that got no answer, or was told to come back later.

    Raises:
        InvalidRequest: an option is out of range.
        UnsupportedFeature: httpx is not installed.
        BackendError: no Ramet server answers there, or it wants another key.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        timeout: float | None = 600.0,
        verify: bool = True,
        cache_salt: str = "",
        priority: int = 0,
        max_connections: int = 512,
        max_retries: int = 3,
    ) -> None:
        try:
            from ramet.lang.backends.http import HttpClient
        except ImportError as error:
            raise UnsupportedFeature('rm.Endpoint needs httpx: pip install "ramet[client]"') from error
        http = HttpClient(
            url,
            api_key,
            timeout=timeout,
            verify=verify,
            max_connections=max_connections,
            max_retries=max_retries,
        )
        self.url = http.url
        self._remote = EndpointBackend(http, cache_salt=cache_salt, priority=priority)
        super().__init__(self._remote)
        try:
            run_sync(self._remote.connect())
        except BaseException:
            run_sync(self._remote.aclose())
            raise

    def stats(self) -> EngineStats:
        """Counters since the server's engine started."""
        return run_sync(self._remote.stats())

    def flush_cache(self) -> bool:
        """Drop all cached KV; true if every slot is free now.

        Raises:
            InvalidRequest: requests are running.
        """
        return run_sync(self._remote.flush_cache())

    def get_server_info(self) -> dict[str, Any]:
        """What the server says about itself: version, model, limits, counters."""
        return run_sync(self._remote.server_info())

    def model_info(self) -> dict[str, Any]:
        """What the server says about its model: name, limits, chat template."""
        return run_sync(self._remote.model_info())

    def close(self) -> None:
        """Close all connections, which aborts what runs. May be called more than once."""
        run_sync(self._remote.aclose())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
