"""One frozen dataclass per component. Only `ramet.engine.build` sees them all.

Each field says what it is for in a few words that a command line can show: there is no other list of options.
"""

from __future__ import annotations

from dataclasses import Field, dataclass, field
from typing import Any, Literal, TypeAlias, TypeVar

from ramet.checks import check_int
from ramet.errors import InvalidRequest

T = TypeVar("T")

Device: TypeAlias = Literal["auto", "cpu", "cuda"]
DType: TypeAlias = Literal["auto", "float32", "bfloat16", "float16"]
KVDType: TypeAlias = Literal["auto", "float32", "bfloat16", "float8"]
KernelChoice: TypeAlias = Literal["auto", "native", "torch"]
LoadFormat: TypeAlias = Literal["auto", "dummy"]
PolicyName: TypeAlias = Literal["fcfs", "lpm"]


def option(default: T, meaning: str, *, secret: bool = False, **shown: Any) -> T:
    """A field of a configuration, and what people are told about it.

    ``shown`` is how a command line has it where the field's name will not do: ``flag="--api-key"``, or
    ``argument=True`` for one that is given by its position. A secret is left out where the value is printed.
    """
    return field(default=default, repr=not secret, metadata={"help": meaning, **shown})


def flags_of(option: Field[Any]) -> tuple[str, ...]:
    """How a command line spells a field: ``--max-batch-tokens``; of a bool, also how it says no."""
    flag: str | None = option.metadata.get("flag")
    name = option.name.replace("_", "-")
    if flag is not None or not isinstance(option.default, bool):
        return (flag or f"--{name}",)
    off = f"--disable-{name.removeprefix('enable-')}" if name.startswith("enable-") else f"--no-{name}"
    return f"--{name}", off


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """Which model, and where and in what precision it computes."""

    model: str | None = option(
        None,
        "GGUF file, Hugging Face folder or hub id. Default: the bundled SmolLM2-135M.",
        argument=True,
    )
    device: Device = option("auto", "Where to compute; auto takes a GPU if there is one.")
    dtype: DType = option("auto", "Of the weights; auto keeps quantized ones as the file has them.")
    kv_dtype: KVDType = option(
        "auto",
        "Of keys and values; auto is float32 if dtype is, else bfloat16. float8 (e4m3) is not for the native "
        "CPU kernels.",
    )
    kernels: KernelChoice = option(
        "auto", "auto is native on a CPU where it can be, and Triton on a GPU; torch is the slow reference."
    )
    load_format: LoadFormat = option(
        "auto", "dummy: random weights for the config.json of a folder, to measure a model's shape."
    )
    gpu_memory_fraction: float = option(
        0.9, "Part of the memory that weights leave free on a GPU that KV, steps and CUDA graphs may take."
    )
    cuda_graphs: bool = option(True, "On a GPU, replay small steps instead of launching them piece by piece.")
    deterministic: bool = option(
        False, "On a GPU, the same bits in any company, for some speed; a CPU's always are."
    )
    num_threads: int | None = option(
        None, "Of the native kernels. Default: the cores this process really has.", flag="--threads"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheConfig:
    """The KV pool and the radix tree over it."""

    max_kv_tokens: int | None = option(None, "Slots of the KV pool. Default: what memory there is for.")
    enable_prefix_cache: bool = option(True, "Keep KV after a request ends and share it between requests.")


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerConfig:
    """What a step may hold and who goes first."""

    policy: PolicyName = option("lpm", "Who is admitted first: longest prefix match, or first come.")
    max_batch_tokens: int = option(2048, "Tokens computed in a step; longer prompts are computed in chunks.")
    max_running_requests: int = option(256, "Requests that run at once; more wait.")
    max_waiting_requests: int | None = option(None, "Requests that wait; others are refused. Default: any.")
    overlap: bool = option(True, "On a GPU, plan a step while the one before it is computed.")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Everything an engine is built from."""

    model: ModelOptions = field(default_factory=ModelOptions)
    cache: CacheConfig = field(default_factory=CacheConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    enable_jump_forward: bool = option(True, "Append what a constraint leaves no choice about, unsampled.")
    seed: int = option(0, "Of the sequence that requests without a seed draw theirs from.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """The HTTP server around an engine.

    Raises:
        InvalidRequest: a value is out of range.
    """

    host: str = option("127.0.0.1", "Address to listen on; 0.0.0.0 is every address of this machine.")
    port: int = option(8000, "Port to listen on; 0 takes a free one.")
    api_keys: tuple[str, ...] = option(
        (), "Requests must carry this key, or another one of several. Default: everybody is let in.",
        flag="--api-key", metavar="KEY", secret=True,
    )  # fmt: skip
    admin_keys: tuple[str, ...] = option(
        (), "Only who has this key, or another one of several, may flush the cache and ask for a priority "
        "below 0. Default: everybody may.",
        flag="--admin-key", metavar="KEY", secret=True,
    )  # fmt: skip
    served_model_name: str | None = option(None, "What clients call the model. Default: its own name.")
    max_requests: int = option(
        4096, "Requests in flight, waiting ones included; others are told to come back."
    )
    max_body_bytes: int = option(8 * 1024 * 1024, "Largest body of a request.")
    max_prompts: int = option(256, "Most prompts in one request.")
    request_seconds: float = option(600.0, "Longest a request may take.")
    body_seconds: float = option(30.0, "Longest a client may take to send a body.")
    stall_seconds: float = option(30.0, "Longest a client may leave a response unread.")
    drain_seconds: float = option(
        30.0, "What running requests get to finish when the server is told to stop."
    )
    max_lease_seconds: float = option(600.0, "Longest a client may ask to have a prefix kept.")
    isolate_clients: bool = option(False, "Share no cached prefixes between clients with different keys.")
    restart: bool = option(False, "Start anew if the engine dies. Default: the process ends.")
    cors_origins: tuple[str, ...] = option(
        (), "Web pages from this origin may call; * is all of them. Repeatable.",
        flag="--cors-origin", metavar="ORIGIN",
    )  # fmt: skip
    ssl_certfile: str | None = option(None, "Serve HTTPS with this certificate (PEM).")
    ssl_keyfile: str | None = option(None, "The certificate's key, if it is in a file of its own.")
    ssl_keyfile_password: str | None = option(None, "What that key is encrypted with.", secret=True)
    ssl_ca_certs: str | None = option(None, "Clients must show a certificate signed by one of these (PEM).")

    def __post_init__(self) -> None:
        check_int("port", self.port, 0, 65535)
        for name in ("max_requests", "max_body_bytes", "max_prompts"):
            check_int(name, getattr(self, name), 1)
        for name in ("request_seconds", "body_seconds", "stall_seconds"):
            if not getattr(self, name) > 0:
                raise InvalidRequest(f"{name} must be greater than 0, got {getattr(self, name)!r}")
        for name in ("drain_seconds", "max_lease_seconds"):
            if not getattr(self, name) >= 0:
                raise InvalidRequest(f"{name} must not be negative, got {getattr(self, name)!r}")
        if not all((*self.api_keys, *self.admin_keys)):
            raise InvalidRequest("an API key must not be empty")
