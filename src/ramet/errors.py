"""Every error Ramet raises on purpose.

RametError
├── InvalidRequest            the caller's input is wrong; also a ValueError
│   ├── PromptTooLong         the prompt exceeds the context or the KV pool
│   ├── InvalidConstraint     a constraint cannot be compiled
│   └── UnsupportedFeature    valid, but not something this backend or model can do
├── Overloaded                the queue is full; try again later
├── RequestAborted            the request was cancelled before it finished
├── RequestTimeout            the request took longer than a server allows
├── EngineError               the engine failed while running a request
│   └── EngineDead            the engine has stopped and takes no more requests
├── BackendError              a remote backend failed (``status``, ``retryable``)
├── ProgramError              a language-model program failed; ``__cause__`` says why
│   └── UnknownVariable       a program read a variable nobody set; also a KeyError
└── ModelError                a model cannot be used
    ├── ModelNotFound         no such file, folder, bundled or hub model
    ├── UnsupportedModel      an architecture, tensor type or tokenizer we do not know
    └── CorruptWeights        a model file is truncated, damaged or fails its hash
"""

from __future__ import annotations


class RametError(Exception):
    """Base of all errors raised on purpose."""


class InvalidRequest(RametError, ValueError):
    """The caller's input is wrong. The message names the field and the limit."""


class PromptTooLong(InvalidRequest):
    """The prompt does not fit the model's context or the KV pool."""


class InvalidConstraint(InvalidRequest):
    """A constraint cannot be compiled."""


class UnsupportedFeature(InvalidRequest):
    """A valid request for something this backend or model cannot do."""


class Overloaded(RametError):
    """The queue is full; try again later."""


class RequestAborted(RametError):
    """The request was cancelled before it finished."""


class RequestTimeout(RametError):
    """The request took longer than a server allows."""


class EngineError(RametError):
    """The engine failed while running a request; other requests are not affected."""


class EngineDead(EngineError):
    """The engine has stopped and takes no more requests."""


class BackendError(RametError):
    """A remote backend failed. ``status`` is its HTTP status, if it had one."""

    def __init__(self, message: str, *, status: int | None = None, retryable: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.retryable = retryable


class ProgramError(RametError):
    """A language-model program failed; ``__cause__`` is the error that really happened."""


class UnknownVariable(ProgramError, KeyError):
    """A program read a variable that nobody set."""

    __str__ = Exception.__str__  # KeyError would show the repr of the message


class ModelError(RametError):
    """A model cannot be used."""


class ModelNotFound(ModelError):
    """No such file, folder, bundled model or hub model."""


class UnsupportedModel(ModelError):
    """An architecture, tensor type or tokenizer this version does not know; the message names it."""


class CorruptWeights(ModelError):
    """A model file is truncated, damaged or does not match its hash."""
