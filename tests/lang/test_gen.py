"""`gen`: what is sent, what comes back, and where parameters come from."""

import pytest

import ramet as rm
from ramet.lang.backends.mock import MockBackend, token_ids_of
from ramet.types import Generated, Text


def program_of(*expressions):
    @rm.function
    def program(s):
        for expression in expressions:
            s += expression

    return program


def sent(backend):
    return backend.calls_of("generate")[-1].params


def test_text_is_appended_with_its_tokens():
    backend = MockBackend([" Paris.", " Seine."])
    state = program_of("Capital:" + rm.gen("city") + "\nRiver:" + rm.gen("river")).run(backend=backend)

    assert (state["city"], state["river"]) == (" Paris.", " Seine.")
    assert state.text() == "Capital: Paris.\nRiver: Seine."
    assert backend.calls[1].prompt.parts == (
        Text("Capital:"),
        Generated(" Paris.", token_ids_of(" Paris.")),
        Text("\nRiver:"),
    )


def test_parameters_of_gen_go_before_those_of_run_before_the_defaults():
    backend = MockBackend()
    program = program_of("x" + rm.gen(temperature=0.5, top_p=None))
    program.run(backend=backend, temperature=0.1, top_p=0.9).sync()

    assert (sent(backend).temperature, sent(backend).top_p, sent(backend).top_k) == (0.5, 0.9, -1)


def test_limits_are_checked_against_the_merged_parameters():
    backend = MockBackend()
    program = program_of("x" + rm.gen(min_tokens=200))
    program.run(backend=backend, max_tokens=300).sync()
    assert sent(backend).min_tokens == 200
    with pytest.raises(rm.InvalidRequest, match="min_tokens \\(200\\) must not exceed max_tokens \\(128\\)"):
        program.run(backend=backend)


@pytest.mark.parametrize(
    ("given", "logprobs"),
    [
        ({"return_logprob": True}, 0),
        ({"return_logprob": True, "top_logprobs_num": 3}, 3),
        ({"top_logprobs_num": 2}, 2),
        ({"logprobs": 1}, 1),
        ({}, 5),
        ({"return_logprob": False}, None),
    ],
)
def test_the_published_words_for_logprobs(given, logprobs):
    backend = MockBackend()
    program_of("x" + rm.gen(**given)).run(backend=backend, return_logprob=True, top_logprobs_num=5).sync()
    assert sent(backend).logprobs == logprobs


def test_meta_info_tells_how_a_text_came_about():
    state = program_of("one two" + rm.gen("x", logprobs=0)).run(backend=MockBackend(" three four"))
    meta = state.get_meta_info("x")

    assert [entry.token for entry in meta.pop("logprobs")] == [" three", " four"]
    assert meta == {
        "finish_reason": "stop",
        "stop_reason": None,
        "prompt_tokens": 2,
        "cached_tokens": 0,
        "completion_tokens": 2,
        "token_ids": list(token_ids_of(" three four")),
    }


def test_several_completions_are_a_list_and_the_first_is_appended():
    state = program_of("x" + rm.gen("y", n=3)).run(backend=MockBackend(["a", "b", "c"]))
    assert state["y"] == ["a", "b", "c"]
    assert state.text() == "xa"
    assert [meta["token_ids"] for meta in state.get_meta_info("y")] == [list(token_ids_of(t)) for t in "abc"]


def test_a_name_set_again_is_the_latest():
    @rm.function
    def counting(s):
        for number in range(3):
            s += f"{number}:" + rm.gen("reply")
        s["number"] = number

    state = counting.run(backend=MockBackend(["a", "b", "c"]))
    assert state["reply"] == "c"
    assert state["number"] == 2


def test_variables_can_be_set_and_asked_for():
    @rm.function
    def program(s):
        assert "x" not in s
        s.set_var("x", 1)
        s["x"] += 1
        assert "x" in s
        return s.get_var("x")

    state = program.run(backend=MockBackend())
    assert state.ret_value == 2
    assert state.get_meta_info("x") is None


def test_a_scope_keeps_the_text_inside():
    @rm.function
    def program(s):
        s += "before "
        with s.var_scope("inner"):
            s += "in" + rm.gen() + "side"
        s += " after"

    state = program.run(backend=MockBackend("-mock-"))
    assert state["inner"] == "in-mock-side"
    assert state.text() == "before in-mock-side after"


def test_messages_and_text_with_roles():
    program = program_of(
        rm.system("Be brief.") + rm.user("Hi"),
        rm.assistant("Well, " + rm.gen("answer")),
        rm.user_begin() + "Bye",
    )
    state = program.run(backend=MockBackend("hello."))
    assert state.messages() == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Well, hello."},
        {"role": "user", "content": "Bye"},
    ]
    assert state.text() == (
        "<|system|>Be brief.<|end|><|user|>Hi<|end|><|assistant|>Well, hello.<|end|><|user|>Bye"
    )


def test_roles_on_the_state():
    @rm.function
    def chat(s):
        s.system("Be brief.")
        with s.user():
            s += "Hi"
        with s.assistant():
            s += rm.gen("answer")

    state = chat.run(backend=MockBackend("hello"))
    assert [message["role"] for message in state.messages()] == ["system", "user", "assistant"]
    assert state.messages()[-1]["content"] == "hello"


@pytest.mark.parametrize(
    ("expressions", "words"),
    [
        ([rm.user_begin(), rm.system("x")], ["system", "inside the user"]),
        ([rm.user_end()], ["user", "no message is open"]),
        ([rm.user_begin(), rm.assistant_end()], ["assistant message ends", "user message is open"]),
    ],
)
def test_messages_do_not_nest(expressions, words):
    with pytest.raises(rm.InvalidRequest) as caught:
        program_of(*expressions).run(backend=MockBackend())
    assert all(word in str(caught.value) for word in words)


def test_role_forms_are_alike():
    forms = [
        (rm.system, rm.system_begin, rm.system_end),
        (rm.user, rm.user_begin, rm.user_end),
        (rm.assistant, rm.assistant_begin, rm.assistant_end),
    ]
    for whole, begin, end in forms:
        assert whole("x") == begin() + "x" + end()


def test_expressions_combine_on_either_side():
    assert "a" + rm.gen("x") + "b" + "c" == rm.lang.ir.join("a", rm.gen("x"), "bc")
    assert ("a" + rm.gen("x")) + (rm.gen("y") + "b") == "a" + rm.gen("x") + rm.gen("y") + "b"
    with pytest.raises(TypeError):
        _ = rm.gen("x") + 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rm.gen("x", temprature=0), "unknown sampling parameter 'temprature'"),
        (lambda: rm.gen("x", max_new_tokens=5), "did you mean max_tokens"),
        (lambda: rm.gen(5), "name of a variable must be a string, got int"),
        (lambda: program_of().run(backend=MockBackend()).set_var(5, "x"), "must be a string, got int"),
        (
            lambda: program_of().run(backend=MockBackend()).var_scope(5).__enter__(),
            "must be a string, got int",
        ),
        (lambda: f"{rm.gen('x')}", "cannot stand in an f-string"),
        (lambda: "{}".format("x" + rm.gen("x")), "cannot stand in an f-string"),
        (lambda: rm.gen("x", logprobs=1, return_logprob=True), "not both"),
        (lambda: rm.gen("x", return_logprob=1), "return_logprob must be a bool"),
        (lambda: rm.gen("x", choices=["a"], top_p=0.5), "takes no top_p"),
        (lambda: rm.gen("x", choices_method=rm.token_length_normalized), "needs choices"),
        (lambda: program_of(None).run(backend=MockBackend()), "cannot append None"),
        (lambda: program_of(5).run(backend=MockBackend()), "cannot append int"),
        (
            lambda: program_of(rm.gen(temperature=-1)).run(backend=MockBackend()),
            "temperature must be",
        ),
        (lambda: program_of(rm.gen(stop="")).run(backend=MockBackend()), "stop must not contain an empty"),
        (lambda: program_of("x").run(backend=MockBackend(), top_p=0), "top_p must be greater than 0"),
    ],
)
def test_bad_parameters_are_named(make, message):
    with pytest.raises(rm.InvalidRequest, match=message):
        make()
