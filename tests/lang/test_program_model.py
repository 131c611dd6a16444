"""Random programs against a model that does one thing after the other."""

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

import ramet as rm
from ramet.lang.backends.mock import MockBackend

NAMES = st.sampled_from(["x", "y", "z"])


@dataclass(frozen=True)
class Write:
    text: str


@dataclass(frozen=True)
class Generate:
    name: str


@dataclass(frozen=True)
class Set:
    name: str
    value: int


@dataclass(frozen=True)
class Scope:
    name: str
    inside: tuple


@dataclass(frozen=True)
class Fork:
    branches: tuple
    meanwhile: tuple
    mode: str | None


simple = st.one_of(
    st.builds(Write, st.text("ab \n", max_size=5)),
    st.builds(Generate, NAMES),
    st.builds(Set, NAMES, st.integers(0, 9)),
)


def lists(actions):
    return st.lists(actions, max_size=4).map(tuple)


actions = st.recursive(
    simple,
    lambda inner: st.one_of(
        st.builds(Scope, NAMES, lists(inner)),
        st.builds(
            Fork,
            st.lists(lists(inner), min_size=1, max_size=3).map(tuple),
            lists(inner),
            st.sampled_from([None, "gather_variable", "concate_and_append"]),
        ),
    ),
    max_leaves=25,
)


def reply_to(text):
    """What the model says depends on everything before it."""
    return f"<{len(text)}:{sum(map(ord, text)) % 97}>"


@dataclass
class Model:
    text: str = ""
    variables: dict = field(default_factory=dict)

    def do(self, what):
        for action in what:
            match action:
                case Write(text):
                    self.text += text
                case Generate(name):
                    self.variables[name] = reply_to(self.text)
                    self.text += self.variables[name]
                case Set(name, value):
                    self.variables[name] = value
                case Scope(name, inside):
                    start = len(self.text)
                    self.do(inside)
                    self.variables[name] = self.text[start:]
                case Fork(branches, meanwhile, mode):
                    children = [Model(self.text, dict(self.variables)) for _ in branches]
                    start = len(self.text)
                    for child, branch in zip(children, branches, strict=True):
                        child.do(branch)
                    self.do(meanwhile)
                    if mode == "concate_and_append":
                        self.text += "".join(child.text[start:] for child in children)
                    elif mode == "gather_variable":
                        mine = set(self.variables)
                        for child in children:
                            for name in child.variables.keys() - mine:
                                self.variables.setdefault(name, []).append(child.variables[name])


def write(s, what):
    for action in what:
        match action:
            case Write(text):
                s += text
            case Generate(name):
                s += rm.gen(name)
            case Set(name, value):
                s[name] = value
            case Scope(name, inside):
                with s.var_scope(name):
                    write(s, inside)
            case Fork(branches, meanwhile, mode):
                forks = s.fork(len(branches))
                for fork, branch in zip(forks, branches, strict=True):
                    write(fork, branch)
                write(s, meanwhile)
                if mode is not None:
                    forks.join(mode)


@rm.function
def program(s, what):
    write(s, what)


@settings(max_examples=150, deadline=None)
@given(lists(actions), st.booleans())
def test_programs_do_what_they_would_one_thing_after_the_other(what, stream):
    model = Model()
    model.do(what)
    backend = MockBackend(lambda prompt, params: reply_to(backend.render(prompt)))

    state = program.run(what, backend=backend, stream=stream)

    assert state.text() == model.text
    assert {name: state[name] for name in model.variables} == model.variables
    assert "".join(state.text_iter()) == model.text
    assert state.error() is None
