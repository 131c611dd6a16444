"""A tour in a minute: a program, a backend, its text."""

import ramet as rm
from ramet.lang.backends.mock import MockBackend


@rm.function
def tip_suggestion(s, topic):
    s += f"Here are two tips about {topic}.\n1."
    s += rm.gen("first", max_tokens=24, stop="\n")
    forks = s.fork(2)  # two ramets from one root
    for i, f in enumerate(forks):
        f += f"\nNow expand point {i + 1}:" + rm.gen("detail", max_tokens=48)
    s += "\nSummary:" + forks[0]["detail"] + "\nTone: " + rm.select("tone", choices=["formal", "casual"])


def reply(prompt, params):
    return " Walk." if params.stop else " Every day, outside."


def test_a_program_writes_forks_and_chooses():
    backend = MockBackend(reply, scores={"formal": -3.0, "casual": -0.5})

    state = tip_suggestion.run(topic="staying healthy", backend=backend)

    assert state["first"] == " Walk."
    assert state["tone"] == "casual"
    assert state.text() == (
        "Here are two tips about staying healthy.\n1. Walk.\nSummary: Every day, outside.\nTone: casual"
    )


def test_the_forks_continue_the_same_prompt():
    backend = MockBackend(reply)

    tip_suggestion.run(topic="sleep", backend=backend).sync()

    _, first, second = backend.calls_of("generate")
    root = "Here are two tips about sleep.\n1. Walk."
    assert {first.text, second.text} == {
        f"{root}\nNow expand point 1:",
        f"{root}\nNow expand point 2:",
    }
    assert [call.text for call in backend.calls_of("cache_prefix")] == [root]


def test_text_comes_piece_by_piece():
    state = tip_suggestion.run(topic="sleep", backend=MockBackend(reply), stream=True)

    pieces = list(state.text_iter())

    assert len(pieces) > 3
    assert "".join(pieces) == state.text()
    assert "".join(state.text_iter("first")) == " Walk."


def test_an_error_says_where_and_why():
    backend = MockBackend([" Walk.", rm.EngineError("out of memory"), " Run."])
    failed = tip_suggestion.run_batch([{"topic": "sleep"}], backend=backend)[0]

    assert failed["first"] == " Walk."
    assert "out of memory" in str(failed.error())
