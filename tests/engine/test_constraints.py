"""Constraints in a whole engine, over a model that draws at random: there is nobody to help them."""

from __future__ import annotations

import asyncio
import json
import re
import weakref

import pytest
from pieces import piece_tokenizer, random_backend

from ramet.constraints import Cfg, Choice, JsonSchema, Regex
from ramet.errors import InvalidConstraint, InvalidRequest
from ramet.event_loop import run_sync
from ramet.grammar.compiler import GrammarCompiler
from ramet.sampling_params import SamplingParams
from ramet.types import Prompt

PATTERNS = [
    r'\{"name": "[a-zé ]{1,12}", "age": [1-9][0-9]?, "city": "(Paris|Rome|Berlin)"\}',
    r"(yes|no|left|right)(, (yes|no)){0,3}",
    r"[0-9]{4}-(0[1-9]|1[0-2])-([0-2][0-9]|3[01])",
    r"https?://(www\.)?[a-z]{2,8}\.com(/[a-z]{1,5}){0,2}",
    r"(error code: [0-9]{1,3}\n){1,3}",
    r"(日本|é|text of value){1,4}",
    r'\[("red"|"green"|"blue")(, ("red"|"green"|"blue")){0,4}\]',
    r"tool: search\(query=\"[^\"\\\n]{0,10}\"\)",
    r"the answer is (true|false|null)\.",
    r"a{0,5}(b|cd){2,3}[^a-z]{1,3}",
    r"",
    r"always the same text, and nothing of it is the model's",
]
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "value": {"type": "integer", "minimum": -20, "maximum": 100},
        "color": {"enum": ["red", "green", "blue"]},
        "list": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
    },
    "required": ["name", "value", "list"],
    "additionalProperties": False,
}


def ask(backend, constraint, **sampling):
    params = SamplingParams(**{"max_tokens": 400, "constraint": constraint, **sampling})
    return backend.generate(Prompt.of(f"say something ({sampling.get('seed')})>"), params)


async def ask_all(backend, constraints, **sampling):
    return await asyncio.gather(*(ask(backend, constraint, **sampling) for constraint in constraints))


@pytest.mark.parametrize("jump_forward", [True, False])
def test_every_output_matches_its_constraint(jump_forward):
    for salt in range(90):
        backend = random_backend(jump_forward=jump_forward, salt=salt)
        outputs = run_sync(ask_all(backend, [*map(Regex, PATTERNS)], seed=salt))
        for pattern, (completion,) in zip(PATTERNS, outputs, strict=True):
            assert completion.finish_reason == "stop", pattern
            assert re.fullmatch(pattern, completion.text), (pattern, completion.text)
        backend.shutdown()


def test_forced_tokens_are_those_the_tokenizer_would_write():
    tokenizer = piece_tokenizer()
    for salt in range(20):
        backend = random_backend(salt=salt)
        for constraint in (JsonSchema(json.dumps(SCHEMA)), Regex(PATTERNS[-1]), Regex(PATTERNS[8])):
            (completion,) = run_sync(ask(backend, constraint, seed=salt))
            pieces = [tokenizer.vocab.bytes_of(token_id) for token_id in completion.token_ids]
            assert b"".join(pieces).decode() == completion.text
        backend.shutdown()
    (completion,) = run_sync(ask(backend := random_backend(), Regex(PATTERNS[-1])))
    assert list(completion.token_ids) == tokenizer.encode_continuation(PATTERNS[-1])
    stats = run_sync(backend.stats())
    assert (stats.steps, stats.generated_tokens) == (0, 0)  # nothing was the model's, so it was not asked
    assert stats.jump_forward_tokens == len(completion.token_ids)
    backend.shutdown()


def test_jump_forward_saves_steps():
    steps = {}
    for jump_forward in (True, False):
        backend = random_backend(jump_forward=jump_forward)
        run_sync(ask(backend, JsonSchema(json.dumps(SCHEMA))))
        stats = run_sync(backend.stats())
        steps[jump_forward] = stats.steps
        assert (stats.jump_forward_tokens > 0) == jump_forward
        backend.shutdown()
    assert steps[True] < steps[False]


@pytest.mark.parametrize("jump_forward", [True, False])
def test_json_values_follow_their_schema(jump_forward):
    backend = random_backend(jump_forward=jump_forward)
    constraint = JsonSchema(json.dumps(SCHEMA))
    for seed in range(30):
        (completion,) = run_sync(ask(backend, constraint, seed=seed))
        value = json.loads(completion.text)
        assert list(value) in (["name", "value", "list"], ["name", "value", "color", "list"])
        assert len(value["name"]) <= 8 and -20 <= value["value"] <= 100 and len(value["list"]) <= 3
    backend.shutdown()


def test_a_choice_is_one_of_its_texts():
    backend = random_backend()
    choices = ("yes", "yes and no", "no", "日本", "it's (a) \\ regex?")
    texts = {run_sync(ask(backend, Choice(choices), seed=seed))[0].text for seed in range(40)}
    assert len(texts) > 1 and texts <= set(choices)
    backend.shutdown()


def test_requests_of_a_batch_have_their_own_constraints_or_none():
    backend = random_backend(max_batch_tokens=32)

    async def both():
        free = ask(backend, None, max_tokens=20)
        return await asyncio.gather(free, ask_all(backend, map(Regex, PATTERNS)))

    (free,), outputs = run_sync(both())
    assert len(free.token_ids) == 20 or free.finish_reason == "stop"
    for pattern, (completion,) in zip(PATTERNS, outputs, strict=True):
        assert re.fullmatch(pattern, completion.text)
    backend.shutdown()


def test_equal_constraints_are_compiled_once():
    backend = random_backend()
    run_sync(ask_all(backend, [Regex(PATTERNS[0])] * 20))
    seconds = run_sync(backend.stats()).grammar_compile_seconds
    run_sync(ask(backend, Regex(PATTERNS[0])))
    stats = run_sync(backend.stats())
    assert stats.grammars_compiled == 1
    assert 0 < stats.grammar_compile_seconds == seconds
    backend.shutdown()


def test_preempted_requests_keep_what_was_forced():
    crowded, roomy = random_backend(num_slots=200), random_backend()
    constraints = [Regex(f"answer {i}: ((yes|no), error code 2024; ){{12,16}}") for i in range(8)]
    run_sync(ask_all(crowded, constraints, max_tokens=1))  # all grammars are compiled: all begin together
    tight = run_sync(ask_all(crowded, constraints))
    assert run_sync(crowded.stats()).preemptions > 0
    assert [c.text for (c,) in tight] == [c.text for (c,) in run_sync(ask_all(roomy, constraints))]
    crowded.shutdown()
    roomy.shutdown()


def test_forced_tokens_count_against_max_tokens_and_are_checked_for_stops():
    backend = random_backend()
    whole = run_sync(ask(backend, Regex(PATTERNS[-1])))[0]
    (cut,) = run_sync(ask(backend, Regex(PATTERNS[-1]), max_tokens=5))
    assert (cut.finish_reason, cut.token_ids) == ("length", whole.token_ids[:5])
    (exact,) = run_sync(ask(backend, Regex(PATTERNS[-1]), max_tokens=len(whole.token_ids)))
    assert (exact.finish_reason, exact.text) == ("stop", whole.text)
    (stopped,) = run_sync(ask(backend, Regex(PATTERNS[-1]), stop="text"))
    assert (stopped.text, stopped.stop_reason) == ("always the same ", "text")
    comma = whole.token_ids.index(ord(","))
    (by_token,) = run_sync(ask(backend, Regex(PATTERNS[-1]), stop_token_ids=[ord(",")]))
    assert by_token.token_ids == whole.token_ids[: comma + 1] and by_token.stop_reason == ord(",")
    backend.shutdown()


def test_streams_n_logprobs_and_penalties_work_under_a_constraint():
    backend = random_backend()
    pattern = PATTERNS[0]
    params = SamplingParams(
        max_tokens=200, constraint=Regex(pattern), n=3, logprobs=2, repetition_penalty=1.2
    )

    async def stream():
        texts = dict.fromkeys(range(3), "")
        completions = {}
        async for chunk in backend.stream(Prompt.of("go>"), params):
            texts[chunk.index] += chunk.text
            if chunk.completion is not None:
                completions[chunk.index] = chunk.completion
        return texts, completions

    texts, completions = run_sync(stream())
    for index, completion in completions.items():
        assert completion.text == texts[index]
        assert re.fullmatch(pattern, completion.text)
        assert len(completion.logprobs) == len(completion.token_ids)
    backend.shutdown()


def test_an_output_ends_where_its_constraint_does_even_before_min_tokens():
    backend = random_backend()
    (completion,) = run_sync(ask(backend, Regex("yes"), min_tokens=50))
    assert (completion.text, completion.finish_reason) == ("yes", "stop")
    (longer,) = run_sync(ask(backend, Regex("[a-z]{1,40}"), min_tokens=10))
    assert len(longer.token_ids) >= 10 or len(longer.text) == 40
    backend.shutdown()


def test_eos_ends_only_what_may_end():
    backend = random_backend()
    for seed in range(20):
        (completion,) = run_sync(ask(backend, Regex("(ab){2,9}"), seed=seed, ignore_eos=seed % 2 == 1))
        assert re.fullmatch("(ab){2,9}", completion.text)
        assert seed % 2 == 0 or completion.text == "ab" * 9  # EOS is ignored, so only the constraint ends it
    backend.shutdown()


@pytest.mark.parametrize(
    "constraint",
    [Regex("a(b"), Regex(r"(?=a)b"), JsonSchema('{"type": "strin"}'), JsonSchema("{"), Cfg("start: nothing")],
)
def test_what_cannot_be_compiled_is_refused_and_costs_nobody_else_anything(constraint):
    backend = random_backend()

    async def both():
        bad = ask(backend, constraint)
        good = ask(backend, Regex(PATTERNS[0]))
        return await asyncio.gather(bad, good, return_exceptions=True)

    refused, (completion,) = run_sync(both())
    assert isinstance(refused, InvalidConstraint)
    assert re.fullmatch(PATTERNS[0], completion.text)
    backend.shutdown()


def test_a_constraint_that_the_vocabulary_cannot_spell_ends_that_request():
    backend = random_backend()
    tokenizer = piece_tokenizer()
    assert tokenizer.vocab.bytes_of(0) == b"\x00"
    with pytest.raises(InvalidRequest, match="constraint must be one of Regex"):
        SamplingParams(constraint="yes|no")
    backend.shutdown()


def test_a_stop_token_that_is_text_is_text_before_min_tokens():
    backend = random_backend(jump_forward=False)
    for pattern in ("q,q,q,q,q,q,q", "(,){3,30}"):
        (completion,) = run_sync(ask(backend, Regex(pattern), stop_token_ids=[ord(",")], min_tokens=4))
        assert completion.stop_reason == ord(",") and len(completion.token_ids) > 4
    backend.shutdown()


def test_a_long_forced_text_comes_in_pieces_and_no_more_of_it_than_asked_for():
    backend = random_backend()
    text = "0123456789" * 200
    (whole,) = run_sync(ask(backend, Choice((text,)), max_tokens=3000))
    assert (whole.text, whole.finish_reason) == (text, "stop")
    before = run_sync(backend.stats())
    assert 2 < before.steps < 20
    (cut,) = run_sync(ask(backend, Choice((text,)), max_tokens=3))
    after = run_sync(backend.stats())
    assert (cut.finish_reason, len(cut.token_ids)) == ("length", 3)
    assert after.steps == before.steps
    backend.shutdown()


def test_a_tokenizer_with_more_tokens_than_the_model_harms_nobody():
    backend = random_backend(vocab_size=300)
    params = SamplingParams(constraint=Regex("(the answer is ){2}(yes|no)"), stop_token_ids=[350])
    (completion,) = run_sync(backend.generate(Prompt.of([ord(">")]), params))
    assert re.fullmatch("(the answer is ){2}(yes|no)", completion.text)
    assert max(completion.token_ids) < 300
    backend.shutdown()


class RecordingCompiler(GrammarCompiler):
    """Keeps all it was asked for."""

    def __init__(self, tokenizer, vocab_size):
        super().__init__(tokenizer, vocab_size)
        self.futures = []

    def submit(self, constraint):
        self.futures.append(super().submit(constraint))
        return self.futures[-1]


def test_a_cancelled_caller_is_not_compiled_for():
    compilers = []

    def make(tokenizer, vocab_size):
        compilers.append(RecordingCompiler(tokenizer, vocab_size))
        return compilers[-1]

    backend = random_backend(compiler=make)

    async def leave_and_ask():
        calls = [asyncio.ensure_future(ask(backend, Regex(f"(a|b)*a(a|b){{20}}{i}"))) for i in range(50)]
        await asyncio.sleep(0)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        return await ask(backend, Regex("yes|no"))

    (completion,) = run_sync(leave_and_ask())
    assert completion.text in ("yes", "no")
    assert run_sync(backend.stats()).waiting == 0
    (compiler,) = compilers
    assert len(compiler.futures) > 40
    assert sum(future.cancelled() for future in compiler.futures) > 40
    backend.shutdown()


def test_dropped_constraints_are_freed_at_once():
    tokenizer = piece_tokenizer()
    compiler = GrammarCompiler(tokenizer, len(tokenizer.vocab), cache_bytes=1)
    gone = weakref.ref(compiler.get(Regex("a[bc]{3}")))
    kept = weakref.ref(compiler.get(Regex("another")))
    compiler.close()
    while compiler._under_way:  # the last future is dropped on the worker's thread
        pass
    assert kept() is not None
    assert gone() is None


def test_others_go_on_while_a_hostile_constraint_is_looked_at():
    backend = random_backend()
    hostile = ["(a|b)*a(a|b){20}", "((a{1000}){1000}){1000}", "(a?){5000}(a){5000}", "(" * 5000, "a" * 10**6]
    params = SamplingParams(max_tokens=4000, ignore_eos=True)

    async def both():
        arrived = [0]

        async def follow():
            async for chunk in backend.stream(Prompt.of("go>"), params):
                arrived[0] += len(chunk.token_ids)

        stream = asyncio.ensure_future(follow())
        while not arrived[0]:
            await asyncio.sleep(0)
        begun = arrived[0]
        with pytest.raises(InvalidConstraint):
            await ask(backend, Regex(hostile[0]))
        meanwhile = arrived[0] - begun
        for pattern in hostile[1:]:
            with pytest.raises(InvalidConstraint):
                await ask(backend, Regex(pattern))
        await stream
        return meanwhile, arrived[0]

    meanwhile, total = run_sync(both())
    assert meanwhile > 0
    assert total == 4000
    backend.shutdown()
