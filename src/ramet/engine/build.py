"""The composition root: the only place that sees the whole configuration and joins tokens to tensors."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import get_args

from ramet.checks import check_float
from ramet.config import Device, DType, EngineConfig, KernelChoice, KVDType, LoadFormat
from ramet.engine.core import EngineCore
from ramet.engine.core_process import CoreProcess
from ramet.engine.core_thread import CoreThread
from ramet.engine.loading import loading_progress
from ramet.engine.local import LocalBackend
from ramet.errors import InvalidRequest
from ramet.grammar.compiler import GrammarCompiler
from ramet.model_card import ModelCard
from ramet.runner.build import build_runner
from ramet.scheduler.limits import check_config
from ramet.store.resolve import model_name, resolve_model
from ramet.tokenizer.load import load_tokenizer
from ramet.tokenizer.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

_CHOICES = {
    "device": Device,
    "dtype": DType,
    "kv_dtype": KVDType,
    "kernels": KernelChoice,
    "load_format": LoadFormat,
}


def build_backend(config: EngineConfig, *, own_process: bool = False) -> LocalBackend:
    """Load the model and start an engine core on it.

    Args:
        config: of the engine.
        own_process: give the core a process of its own, so that nothing here takes time from its steps.

    Raises:
        InvalidRequest: an option is out of range.
        ModelError: the model is not there, not supported or damaged.
        EngineDead: the core's own process ended while it loaded the model.
    """
    _check(config)
    path = resolve_model(config.model.model)
    if not own_process:
        tokenizer = load_tokenizer(path)
        core, card = build_core(config, path, tokenizer)
        return LocalBackend(tokenizer, CoreThread(core), card, seed=config.seed)
    process = CoreProcess(config, path)
    try:
        tokenizer = load_tokenizer(path)  # while the process loads the model
        card = process.wait_until_ready()
    except BaseException:
        process.close()
        raise
    return LocalBackend(tokenizer, process, card, seed=config.seed)


def build_core(config: EngineConfig, path: Path, tokenizer: Tokenizer) -> tuple[EngineCore, ModelCard]:
    """Load the model at ``path`` and make a core of it.

    Raises:
        InvalidRequest: an option has no meaning on this machine.
        ModelError: the model is not supported or damaged.
    """
    with loading_progress(path.name) as on_progress:
        runner = build_runner(
            path,
            config.model,
            max_kv_tokens=config.cache.max_kv_tokens,
            steps=config.scheduler,
            on_progress=on_progress,
        )
    if tokenizer.vocab_size > runner.vocab_size:
        logger.warning(
            "the tokenizer of %s has %d tokens, the model %d: prompts with the surplus ones are refused",
            path.name,
            tokenizer.vocab_size,
            runner.vocab_size,
        )
    core = EngineCore(
        runner,
        config.scheduler,
        vocab=tokenizer.vocab,
        eos_token_ids=tokenizer.eos_token_ids,
        enable_prefix_cache=config.cache.enable_prefix_cache,
        grammars=GrammarCompiler(tokenizer, runner.vocab_size),
        enable_jump_forward=config.enable_jump_forward,
    )
    card = ModelCard(
        name=model_name(config.model.model),
        path=str(path),
        context_length=runner.context_length,
        max_sequence_tokens=core.max_sequence_tokens,
        vocab_size=runner.vocab_size,
        num_slots=runner.num_slots,
        pool_bytes=runner.pool_bytes,
        kernels=runner.kernels,
    )
    return core, card


def _check(config: EngineConfig) -> None:
    """Refuse options that make no sense, before a model is looked for.

    Raises:
        InvalidRequest: an option is out of range.
    """
    check_config(config.scheduler)
    for name, kind in _CHOICES.items():
        given = getattr(config.model, name)
        if given not in get_args(kind):
            raise InvalidRequest(f"{name} must be one of {', '.join(get_args(kind))}, got {given!r}")
    check_float("gpu_memory_fraction", config.model.gpu_memory_fraction, 0.01, 1.0)
    if isinstance(config.seed, bool) or not isinstance(config.seed, int):
        raise InvalidRequest(f"seed must be an integer, got {type(config.seed).__name__}")
    limit = config.cache.max_kv_tokens
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise InvalidRequest(f"max_kv_tokens must be an integer of at least 1, got {limit!r}")
