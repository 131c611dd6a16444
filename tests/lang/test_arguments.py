"""Which argument goes where, and which backend a program runs on."""

import pytest

import ramet as rm
from ramet.facade import Facade
from ramet.lang.backends.mock import MockBackend


@rm.function
def echo(s, first, second="two", *, third="three"):
    """Say it again."""
    s += f"{first} {second} {third}" + rm.gen("reply")
    return first, second, third


@pytest.fixture
def backend():
    return MockBackend()


@pytest.fixture
def default_backend(backend):
    rm.set_default_backend(backend)
    yield backend
    rm.set_default_backend(None)


def test_arguments_reach_the_function(backend):
    assert echo.run("a", backend=backend).ret_value == ("a", "two", "three")
    assert echo.run("a", "b", third="c", backend=backend).ret_value == ("a", "b", "c")
    assert echo.run(second="b", first="a", backend=backend).ret_value == ("a", "b", "three")


def test_sampling_parameters_go_to_the_gens(backend):
    echo.run("a", backend=backend, temperature=0.25, stop="\n").sync()
    assert backend.calls[0].params == rm.SamplingParams(temperature=0.25, stop="\n")


def test_a_parameter_of_the_function_is_its_own_even_if_it_names_a_sampling_parameter(backend):
    @rm.function
    def pick(s, n, **rest):
        s += "x" + rm.gen("y")
        return n, rest

    state = pick.run(n=5, colour="red", seed=7, backend=backend)
    assert state.ret_value == (5, {"colour": "red"})
    state.sync()
    assert (backend.calls[0].params.n, backend.calls[0].params.seed) == (1, 7)


def test_star_arguments(backend):
    @rm.function()
    def join(s, first, *others):
        return first, others

    assert join.run(1, 2, 3, backend=backend).ret_value == (1, (2, 3))


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, "program 'echo' needs the argument 'first'"),
        ((), {"second": 2}, "needs the argument 'first'"),
        (("a",), {"colour": "red"}, "unknown argument 'colour': its parameters are first, second, third"),
        (("a",), {"max_new_tokens": 5}, "did you mean max_tokens"),
        (("a", "b", "c"), {}, "too many positional"),
        (("a",), {"first": "b"}, "multiple values for argument 'first'"),
        (("a",), {"s": 1}, "unknown argument 's'"),
    ],
)
def test_arguments_that_do_not_fit_are_named(backend, args, kwargs, message):
    with pytest.raises(rm.InvalidRequest, match=message):
        echo.run(*args, backend=backend, **kwargs)
    assert not backend.calls


def test_bound_arguments_are_filled_in(backend):
    bound = echo.bind(first="a")
    assert bound.run("b", backend=backend).ret_value == ("a", "b", "three")
    assert bound.bind(third="c").run(backend=backend).ret_value == ("a", "two", "c")
    assert echo.bind(second=2).run("a", backend=backend).ret_value == ("a", 2, "three")


def test_binding_what_is_not_there_or_twice_is_refused(backend):
    with pytest.raises(rm.InvalidRequest, match="no parameter 'colour' to bind"):
        echo.bind(colour="red")
    with pytest.raises(rm.InvalidRequest, match="'first' of program 'echo' is bound already"):
        echo.bind(first=1).bind(first=2)
    with pytest.raises(rm.InvalidRequest, match="'first' of program 'echo' is bound already"):
        echo.bind(first=1).run(first=2, backend=backend)


def test_a_program_keeps_the_functions_name_and_docstring():
    assert (echo.__name__, echo.__doc__, repr(echo)) == ("echo", "Say it again.", "<program echo>")


@pytest.mark.parametrize("thing", [5, int, echo])
def test_what_is_not_a_function_cannot_be_a_program(thing):
    with pytest.raises(rm.InvalidRequest, match="makes a program of a function, not of"):
        rm.function(thing)


def test_functions_that_cannot_be_programs():
    with pytest.raises(rm.InvalidRequest, match="first parameter of program 'state' must be named s"):

        @rm.function
        def state(state, question):
            pass

    with pytest.raises(rm.InvalidRequest, match="program 'empty' must be named s"):

        @rm.function
        def empty():
            pass

    with pytest.raises(rm.InvalidRequest, match="cannot have a parameter named backend"):

        @rm.function
        def greedy(s, backend):
            pass

    with pytest.raises(rm.InvalidRequest, match="must not yield"):

        @rm.function
        def lazy(s):
            yield 1


def test_without_a_backend_it_says_what_to_do():
    with pytest.raises(rm.InvalidRequest, match=r"pass one, as in echo\.run.*set_default_backend"):
        echo.run("a")


def test_what_is_not_a_backend_is_refused():
    for wrong in ("http://localhost", MockBackend):
        with pytest.raises(rm.InvalidRequest, match="backend must be"):
            echo.run("a", backend=wrong)


@pytest.mark.parametrize(
    "call",
    [
        lambda engine: engine.generate(b"bytes"),
        lambda engine: engine.generate([b"bytes"]),
        lambda engine: engine.stream(b"bytes"),
        lambda engine: engine.score(b"bytes", ["a"]),
    ],
)
def test_bytes_are_no_token_ids(backend, call):
    with pytest.raises(rm.InvalidRequest, match=r"must be a string, token ids, messages.*got bytes"):
        call(Facade(backend))


def test_an_engine_is_used_by_its_backend(backend):
    echo.run("a", backend=Facade(backend)).sync()
    assert len(backend.calls) == 1


def test_the_default_backend(default_backend):
    assert echo("a")["reply"] == "mock"
    assert len(default_backend.calls) == 1


def test_a_program_called_inside_another_runs_on_its_backend(default_backend):
    mine = MockBackend("mine")

    @rm.function
    def outer(s):
        inner = echo("a")
        s += inner["reply"] + rm.gen("x")
        return echo.run("b", backend=default_backend)["reply"]

    state = outer.run(backend=mine)
    assert state.text() == "minemine"
    assert state.ret_value == "mock"
    assert len(mine.calls) == 2
