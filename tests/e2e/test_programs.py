"""LM programs on the bundled model, with the engine's counters as witnesses."""

from __future__ import annotations

import asyncio

import pytest

import ramet as rm

pytestmark = pytest.mark.model

CONTEXT = "Ada Lovelace wrote the first program for a machine that was never finished. " * 34  # ~500 tokens


class Counted:
    """What the engine did inside a ``with``."""

    def __init__(self, engine):
        self._engine = engine

    def __enter__(self):
        self._before = self._engine.stats()
        return self

    def __exit__(self, *_):
        self._after = self._engine.stats()

    def __getattr__(self, name):
        return getattr(self._after, name) - getattr(self._before, name)


def test_a_fork_decodes_its_branches_together(engine):
    @rm.function
    def endings(s):
        s += CONTEXT
        forks = s.fork(16)
        for index, branch in enumerate(forks):
            branch += f"Ending {index}:" + rm.gen("ending", max_tokens=32, ignore_eos=True)
        forks.join()

    engine.flush_cache()
    with Counted(engine) as work:
        state = endings.run(backend=engine, temperature=0.8)
        assert len(state["ending"]) == 16
    assert work.generated_tokens == 16 * 32
    assert work.steps <= 32 + 8  # branches may start a few steps apart
    assert work.computed_tokens <= 500 + 40 + 16 * 8


def test_select_computes_the_prompt_once_and_each_choice_once_in_one_step(engine):
    @rm.function
    def judge(s):
        s += CONTEXT + "The machine was"
        s += rm.select("verdict", choices=[f" built by person {index}" for index in range(8)])

    engine.flush_cache()
    with Counted(engine) as work:
        state = judge.run(backend=engine)
        assert state["verdict"].startswith(" built by person")
    prompt_tokens = state.get_meta_info("verdict")["prompt_tokens"]
    assert work.steps == 1
    assert work.computed_tokens <= prompt_tokens + 8 * 6


@pytest.mark.slow
def test_64_requests_compute_their_shared_prefix_once(engine):
    prefix = [1000 + index % 3000 for index in range(1000)]
    prompts = [prefix + [5000 + 50 * index + k for k in range(50)] for index in range(64)]
    engine.flush_cache()
    with Counted(engine) as cold:
        first = engine.generate(prompts, max_tokens=1, temperature=0)
    assert cold.computed_tokens <= 1000 + 64 * 50 + 64
    with Counted(engine) as warm:
        again = engine.generate(prompts, max_tokens=1, temperature=0)
    assert warm.computed_tokens <= 64 * 2
    assert [c.token_ids for c in again] == [c.token_ids for c in first]


def test_a_chat_keeps_its_cache_from_turn_to_turn(engine):
    @rm.function
    def chat(s):
        for question in ("What is a radix tree?", "And what is it good for?"):
            s += rm.user(question)
            s += rm.assistant(rm.gen("answer", max_tokens=24))

    state = chat.run(backend=engine, temperature=0)
    meta = state.get_meta_info("answer")
    # Of the second prompt only the new turn is computed: end of answer, question, start of answer.
    assert meta["prompt_tokens"] - meta["cached_tokens"] < 30
    assert [message["role"] for message in state.messages()] == ["user", "assistant", "user", "assistant"]


def test_streaming_shows_the_text_as_it_is_made(engine):
    @rm.function
    def story(s):
        s += "Once upon a time"
        s += rm.gen("rest", max_tokens=12, ignore_eos=True)

    state = story.run(backend=engine, stream=True, temperature=0)
    deltas = list(state.text_iter("rest"))
    assert len(deltas) > 3
    assert "".join(deltas) == state["rest"]
    assert "".join(state.text_iter()) == state.text() == "Once upon a time" + state["rest"]


def test_an_async_program(engine):
    @rm.function
    async def ask(s, topic):
        s += f"A {topic} is"
        s += rm.gen("what", max_tokens=8, stop=".")
        return await s.aget("what")

    async def both():
        return await asyncio.gather(*(ask.arun(topic, backend=engine) for topic in ("tree", "stem")))

    states = asyncio.run(both())
    assert [state.ret_value for state in states] == [state["what"] for state in states]


def test_a_batch_reports_which_item_failed_while_the_others_finish(engine):
    @rm.function
    def tip(s, topic):
        if topic == "trouble":
            raise ValueError("no tips about that")
        s += f"A tip about {topic}:" + rm.gen("tip", max_tokens=4)

    states = tip.run_batch([{"topic": "sleep"}, {"topic": "trouble"}, {"topic": "food"}], backend=engine)
    assert states[0]["tip"]
    assert states[2]["tip"]
    with pytest.raises(rm.ProgramError, match="item 1"):
        states[1]["tip"]
    assert isinstance(states[1].error(), ValueError)


def test_bad_calls_are_typed_errors_and_the_engine_keeps_serving(engine):
    with pytest.raises(rm.InvalidRequest, match="temperature"):
        engine.generate("hi", temperature=-1)
    with pytest.raises(rm.PromptTooLong, match="8192"):
        engine.generate([5] * 9000)
    with pytest.raises(rm.InvalidRequest, match="choices"):
        rm.select("x", choices=[])
    with pytest.raises(rm.ModelNotFound, match="nowhere"):
        rm.Engine("/nowhere/model.gguf")
    assert engine.generate("hi", max_tokens=1).usage.completion_tokens == 1


def test_text_the_vocabulary_cannot_spell_is_refused_as_a_continuation(engine):
    with pytest.raises(rm.InvalidRequest, match="no tokens in this vocabulary"):
        engine.score("hi", ["\x04"])
    assert engine.generate("hi", max_tokens=1).usage.completion_tokens == 1
