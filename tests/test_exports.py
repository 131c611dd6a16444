"""What `import ramet` gives, and what it costs."""

import subprocess
import sys

import pytest

import ramet as rm

LANGUAGE = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "numpy"}:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())

import ramet as rm
from ramet.lang.backends.mock import MockBackend

@rm.function
def ask(s, question):
    s += rm.user(question) + rm.assistant(rm.gen("answer"))
    forks = s.fork(3)
    forks += rm.gen("more")
    forks.join()
    s += rm.select("yes", choices=["yes", "no"])

state = ask.run("Why?", backend=MockBackend("Because."))
assert state["answer"] == "Because.", state["answer"]
assert state["more"] == ["Because."] * 3
assert state["yes"] == "yes"
states = ask.run_batch([{"question": "a"}, {"question": "b"}], backend=MockBackend("x"))
assert [s["answer"] for s in states] == ["x", "x"]
print("fine")
"""


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_all_is_sorted_and_complete():
    assert list(rm.__all__) == sorted(rm.__all__)
    for name in set(rm.__all__) - {"Engine"}:
        assert hasattr(rm, name), name


def test_the_engine_is_named_but_loaded_late():
    assert "Engine" in rm.__all__
    loaded = python(
        "import sys, ramet; print([m for m in sys.modules if m.startswith(('ramet.engine', 'ramet.runner'))])"
    )
    assert loaded.strip() == "[]"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="Motor"):
        _ = rm.Motor


def test_importing_loads_no_heavy_package():
    heavy = python(
        "import sys, ramet; heavy = ('torch', 'numpy', 'rich', 'transformers', 'jinja2', 'httpx'); "
        "print([name for name in heavy if name in sys.modules])"
    )
    assert heavy.strip() == "[]"


def test_the_language_works_without_torch_and_numpy():
    assert python(LANGUAGE).strip() == "fine"
