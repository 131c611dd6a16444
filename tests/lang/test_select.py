"""`select`, and the three rules on made numbers."""

import pytest

import ramet as rm
from ramet.lang.backends.mock import MockBackend, token_ids_of
from ramet.types import Generated, Prompt, Score, Usage

(BLUE,) = token_ids_of("blue")


def score(*logprobs):
    return Score("?", tuple(range(len(logprobs))), logprobs, Usage(0, 0, 0))


def test_token_length_normalized_takes_the_largest_mean():
    decide = rm.token_length_normalized.decide
    assert decide([score(-1.0), score(-0.6, -0.6, -0.6)], None).index == 1
    assert decide([score(-1.0), score(-1.0)], None).index == 0, "ties go to the first"


def test_greedy_token_selection_follows_the_likeliest_tokens():
    decide = rm.greedy_token_selection.decide
    # the first column leaves 1 and 2; the second one decides, though 0 has the best mean
    decision = decide([score(-0.2, -0.0), score(-0.1, -2.0), score(-0.1, -1.0)], None)
    assert decision.index == 2
    assert decision.meta == {"greedy_logprob_matrix": [[-0.2, -0.0], [-0.1, -2.0], [-0.1, -1.0]]}


def test_greedy_token_selection_continues_short_choices_with_their_mean():
    decision = rm.greedy_token_selection.decide([score(-0.5, -0.9), score(-0.5)], None)
    assert decision.index == 1
    assert decision.meta["greedy_logprob_matrix"][1] == [-0.5, -0.5]


def test_unconditional_likelihood_takes_the_largest_gain():
    decide = rm.unconditional_likelihood_normalized.decide
    # 0 is likelier, but it is likely without the prompt as well
    decision = decide([score(-1.0), score(-2.0, -2.0)], [score(-1.0), score(None, -8.0)])
    assert decision.index == 1
    assert decision.meta["normalized_unconditional_prompt_logprobs"] == [-1.0, -4.0]
    assert decision.meta["unconditional_token_logprobs"][1] == [(None, 0, None), (-8.0, 1, None)]


def choosing(**options):
    @rm.function
    def program(s):
        s += "Sky: " + rm.select("colour", choices=["blue", "dark red"], **options) + "." + rm.gen()

    return program


def test_the_choice_is_appended_with_its_tokens():
    backend = MockBackend(" Good.", scores={"blue": -3.0, "dark red": [-0.5, -0.1]})
    state = choosing().run(backend=backend)

    assert state["colour"] == "dark red"
    assert state.text() == "Sky: dark red. Good."
    dark, red = token_ids_of("dark red")
    assert backend.calls[-1].prompt.parts[1] == Generated("dark red", (dark, red))
    assert state.get_meta_info("colour") == {
        "choices": ["blue", "dark red"],
        "normalized_prompt_logprobs": [-3.0, pytest.approx(-0.3)],
        "input_token_logprobs": [
            [(-3.0, BLUE, None)],
            [(-0.5, dark, None), (-0.1, red, None)],
        ],
        "token_ids": [[BLUE], [dark, red]],
        "prompt_tokens": 4,
        "cached_tokens": 0,
    }


def test_all_choices_are_scored_in_one_call():
    backend = MockBackend()
    choosing().run(backend=backend).sync()
    call = backend.calls[0]
    assert len(backend.calls_of("score")) == 1
    assert (call.kind, call.continuations) == ("score", ("blue", "dark red"))


def test_gen_with_choices_is_a_select():
    assert rm.gen("x", choices=["a", "b"]) == rm.select("x", choices=["a", "b"])
    assert rm.gen("x", choices=["a"], temperature=0, choices_method=rm.greedy_token_selection) == rm.select(
        "x", ["a"], choices_method=rm.greedy_token_selection
    )


def test_the_unconditional_rule_scores_without_the_prompt_as_well():
    def logprob(prompt, choice):
        if choice == "blue":
            return -1.0
        return -2.0 if prompt.parts else -9.0

    backend = MockBackend(scores=logprob)
    method = rm.unconditional_likelihood_normalized
    state = choosing(choices_method=method).run(backend=backend)
    assert state["colour"] == "dark red"
    assert [call.prompt for call in backend.calls][1] == Prompt()


def test_choosing_with_nothing_to_go_by_is_an_error():
    """A model without BOS cannot judge the first token of a text."""

    @rm.function
    def program(s):
        s += rm.select("colour", ["red", "blue"])

    state = program.run(backend=MockBackend(scores=lambda prompt, text: [None]))
    with pytest.raises(rm.ProgramError, match="select needs a prompt"):
        _ = state["colour"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "must be a list of strings, got NoneType"),
        ({"choices": "ab"}, "must be a list of strings, got str"),
        ({"choices": []}, "choices must not be empty"),
        ({"choices": ["a", ""]}, r"choices\[1\] must not be an empty string"),
        ({"choices": ["a", 2]}, r"choices\[1\] must be a string, got int"),
        ({"choices": ["a", "b", "a"]}, "distinct, but 'a' occurs twice"),
        ({"choices": ["a"], "temperature": 0.7}, "temperature must be 0, got 0.7"),
        ({"choices": ["a"], "temperature": "hot"}, "temperature must be a number"),
        ({"choices": ["a"], "choices_method": "best"}, "choices_method must be token_length_normalized"),
    ],
)
def test_bad_choices_are_refused_where_they_are_written(arguments, message):
    with pytest.raises(rm.InvalidRequest, match=message):
        rm.select("x", **arguments)
