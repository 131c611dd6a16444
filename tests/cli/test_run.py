from __future__ import annotations

import signal
import subprocess
import sys
import textwrap

import pytest

import ramet as rm

PROGRAM = """
    import ramet as rm

    @rm.function
    def greet(s, name, times=1):
        s += f"Hello {name!r}, {times!r}:"
        for _ in range(times):
            s += rm.gen("greeting", max_tokens=8)

    if __name__ == "__main__":
        raise SystemExit("the main part must not run")
"""


@pytest.fixture
def write(tmp_path):
    def write(source, name="program.py"):
        file = tmp_path / name
        file.write_text(textwrap.dedent(source))
        return file

    return write


def test_it_streams_the_text_of_the_program(ramet, use_mock, write):
    engines = use_mock(" good day")
    outcome = ramet("run", write(PROGRAM), "--arg", "name=Ada", "--arg", "times=2", "--model", "some.gguf")
    assert outcome.exit_code == 0, outcome.stderr
    assert outcome.stdout == "Hello 'Ada', 2: good day good day\n"
    (engine,) = engines
    assert engine.model == "some.gguf"
    assert engine.is_shut_down


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ("tea", "'tea'"),
        ("3", "3"),
        ('"3"', "'3'"),
        ('["a", 1]', "['a', 1]"),
        ("a=b", "'a=b'"),
        ("", "''"),
        ("NaN", "'NaN'"),
        ("{oops", "'{oops'"),
    ],
)
def test_an_argument_is_json_if_it_parses_and_a_string_otherwise(ramet, use_mock, write, given, value):
    use_mock()
    outcome = ramet("run", write(PROGRAM), "--arg", f"name={given}")
    assert outcome.stdout == f"Hello {value}, 1:mock\n"


def test_sampling_options_are_the_defaults_of_the_program(ramet, use_mock, write):
    engines = use_mock()
    ramet("run", write(PROGRAM), "-a", "name=x", "--temperature", "0.25", "--seed", "3", "--max-tokens", "99")
    (call,) = engines[0].backend.calls
    assert (call.params.temperature, call.params.seed) == (0.25, 3)
    assert call.params.max_tokens == 8  # the program's own


def test_one_of_several_programs_is_picked_by_name(ramet, use_mock, write):
    use_mock("!")
    file = write("""
        import ramet as rm

        @rm.function
        def one(s):
            s += "one" + rm.gen()

        @rm.function
        def two(s):
            s += "two" + rm.gen()
    """)
    assert ramet("run", file, "--function", "two").stdout == "two!\n"
    assert "several programs (one, two): pick one with --function" in ramet("run", file).stderr
    assert "no program 'three' (its programs: one, two)" in ramet("run", file, "-f", "three").stderr


def test_a_program_may_be_imported_from_the_folder_of_the_file(ramet, use_mock, write):
    use_mock("!")
    write("WORD = 'neighbour'", "the_other_file.py")
    file = write("""
        import ramet as rm
        from the_other_file import WORD

        @rm.function
        async def greet(s):
            s += WORD + rm.gen()
    """)
    assert ramet("run", file).stdout == "neighbour!\n"


def test_a_file_that_sets_its_backend_keeps_it(ramet, use_mock, write):
    engines = use_mock("not this one")
    file = write("""
        import ramet as rm
        from ramet.lang.backends.mock import MockBackend

        rm.set_default_backend(MockBackend("its own"))

        @rm.function
        def program(s):
            s += rm.gen()
    """)
    try:
        assert ramet("run", file).stdout == "its own\n"
        assert not engines
        assert "sets its own backend" in ramet("run", file, "--model", "x.gguf").stderr
    finally:
        rm.set_default_backend(None)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"def f(:\n", "bad.py:1: invalid syntax"),
        (b"x = '\xff'\n", "bad.py is not UTF-8 text (byte 0xff at offset 5); save it as UTF-8"),
        (b"x = 1\n\n1 / 0\n", "bad.py:3: ZeroDivisionError: division by zero"),
        (b"import ramet\nramet.gen(5)\n", "bad.py:2: the name of a variable must be a string"),
        (b"x = 1\n", "bad.py defines no program: write a function whose first parameter is s"),
        (b"import ramet\n@ramet.function\ndef f(x): pass\n", "bad.py:2: the first parameter of program 'f'"),
    ],
)
def test_what_is_wrong_with_a_file(ramet, use_mock, tmp_path, source, message):
    engines = use_mock()
    file = tmp_path / "bad.py"
    file.write_bytes(source)
    outcome = ramet("run", file)
    assert outcome.exit_code == 1
    assert message in outcome.stderr
    assert outcome.stderr.count("\n") == 1
    assert not engines


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "greet in {file} takes name, times: pass --arg name=VALUE"),
        (["--arg", "nme=x"], "unknown --arg nme: greet in {file} takes name, times"),
        (["--arg", "name"], "--arg must be name=value, got 'name'"),
        (["--arg", "name=x", "--arg", "name=y"], "--arg name is given twice"),
        (["--arg", "name=x", "--temperature", "-1"], "temperature must be between 0 and 100, got -1"),
    ],
)
def test_wrong_options_are_refused_before_a_model_is_loaded(ramet, use_mock, write, options, message):
    engines = use_mock()
    file = write(PROGRAM)
    outcome = ramet("run", file, *options)
    assert outcome.exit_code == 1
    assert message.format(file=file) in outcome.stderr
    assert not engines


def test_a_failing_program_shows_its_line(ramet, use_mock, write):
    engines = use_mock(" fine")
    file = write("""
        import ramet as rm

        @rm.function
        def program(s):
            s += "so far" + rm.gen("x")
            s["x"].no_such_method()
    """)
    outcome = ramet("run", file)
    assert outcome.exit_code == 1
    assert outcome.stdout == "so far fine\n"
    assert f"error: {file}:7 in program: AttributeError: " in outcome.stderr
    assert engines[0].is_shut_down


def test_a_failing_backend_is_told(ramet, use_mock, write):
    use_mock(RuntimeError("out of paper"))
    outcome = ramet("run", write(PROGRAM), "--arg", "name=x")
    assert outcome.exit_code == 1
    assert "out of paper" in outcome.stderr


def test_ctrl_c_ends_a_program_with_130_and_no_traceback(write):
    file = write("""
        import ramet as rm
        from ramet.lang.backends.mock import MockBackend

        rm.set_default_backend(MockBackend("never", delay=600))

        @rm.function
        def program(s):
            s += "begun\\n" + rm.gen("x")
    """)
    command = [sys.executable, "-c", "from ramet.cli.app import main; main()", "run", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in stderr
