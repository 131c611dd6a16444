"""The composition root: the only place that sees the whole configuration and joins tokens to tensors."""

from __future__ import annotations

import logging

from ramet.config import EngineConfig
from ramet.engine.core import EngineCore
from ramet.engine.loading import loading_progress
from ramet.engine.local import LocalBackend
from ramet.errors import InvalidRequest
from ramet.grammar.compiler import GrammarCompiler
from ramet.runner.build import build_runner
from ramet.scheduler.scheduler import check_config
from ramet.store.resolve import resolve_model
from ramet.tokenizer.load import load_tokenizer

logger = logging.getLogger(__name__)


def build_backend(config: EngineConfig) -> LocalBackend:
    """Load the model and start an engine core on it.

    Raises:
        InvalidRequest: an option is out of range.
        ModelError: the model is not there, not supported or damaged.
    """
    check_config(config.scheduler)
    if isinstance(config.seed, bool) or not isinstance(config.seed, int):
        raise InvalidRequest(f"seed must be an integer, got {type(config.seed).__name__}")
    limit = config.cache.max_kv_tokens
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise InvalidRequest(f"max_kv_tokens must be an integer of at least 1, got {limit!r}")
    path = resolve_model(config.model.model)
    tokenizer = load_tokenizer(path)
    with loading_progress(path.name) as on_progress:
        runner = build_runner(path, config.model, max_kv_tokens=limit, on_progress=on_progress)
    if tokenizer.vocab_size > runner.vocab_size:
        logger.warning(
            "the tokenizer of %s has %d tokens, the model %d: prompts with the surplus ones are refused",
            path.name,
            tokenizer.vocab_size,
            runner.vocab_size,
        )
    grammars = GrammarCompiler(tokenizer, runner.vocab_size)
    core = EngineCore(
        runner,
        config.scheduler,
        vocab=tokenizer.vocab,
        eos_token_ids=tokenizer.eos_token_ids,
        enable_prefix_cache=config.cache.enable_prefix_cache,
        grammars=grammars,
        enable_jump_forward=config.enable_jump_forward,
    )
    return LocalBackend(tokenizer, core, grammars, seed=config.seed)
