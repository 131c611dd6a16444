# Two commands: `make demo` shows Ramet at work, `make test` checks it. Both install into .venv first.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
TOOLS  := $(VENV)/.tools
STAMP  := $(VENV)/.installed
PIP    := $(BIN)/python -m pip --disable-pip-version-check
# The folder itself too: it is newer once a file has been added or removed.
NATIVE := CMakeLists.txt src/ramet/kernels/cpu $(wildcard src/ramet/kernels/cpu/*)
# An editable install knows its packages one by one.
PACKAGES := $(wildcard src/ramet/*/__init__.py src/ramet/*/*/__init__.py)

.PHONY: install demo test lint format sanitize sanitize-threads clean

install: $(STAMP)

$(TOOLS): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Ramet needs Python 3.11 or newer; set PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade 'pip>=25.1'
	$(PIP) install --quiet --group dev
	@touch $@

# Compiles the kernels, in build/, as far as they changed.
$(STAMP): $(TOOLS) $(NATIVE) $(PACKAGES)
	$(PIP) install --quiet --no-build-isolation --editable .
	@touch $@

demo: install
	@$(BIN)/ramet demo

test: install lint
	$(BIN)/python -m pytest

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The tests of the kernels on builds that stop at the first wrong access or undefined operation, or at the first race.
# -S: Python finds packages by PYTHONPATH alone: the sanitized Ramet comes first, the editable one is not there.
# --capture=sys: a finding is written by the sanitizer itself, past pytest.
# One OpenMP thread: ThreadSanitizer cannot see how torch, the oracle, keeps its own in order.
# setarch -R: it does not bear memory at random addresses.
RUNTIME = $$($${CXX:-c++} -print-file-name=lib$(1).so)
sanitize: SANITIZERS := address,undefined
sanitize: SANITIZED = env LD_PRELOAD="$(call RUNTIME,asan) $(call RUNTIME,ubsan)" \
    ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
sanitize: SANITIZED_TESTS := tests/kernels tests/grammar/test_token_index.py
sanitize-threads: SANITIZERS := thread
sanitize-threads: SANITIZED = env LD_PRELOAD="$(call RUNTIME,tsan)" TSAN_OPTIONS=halt_on_error=1 OMP_NUM_THREADS=1 setarch -R env
sanitize-threads: SANITIZED_TESTS := $(patsubst %,tests/kernels/test_%.py,decoder attention linear sampling)
sanitize sanitize-threads: SANITIZED_PYTHON = $(SANITIZED) \
    PYTHONPATH="$(CURDIR)/build/$@/site:$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))')" \
    $(BIN)/python -S
sanitize sanitize-threads: install
	$(PIP) install --verbose --no-build-isolation --no-deps --upgrade --target build/$@/site \
	    -C build-dir=build/$@/cmake -C cmake.build-type=Debug -C cmake.define.RAMET_SANITIZE=$(SANITIZERS) .
	$(SANITIZED_PYTHON) -c 'import sys; from ramet import kernels; sys.exit(kernels.why_unavailable())'
	$(SANITIZED_PYTHON) -m pytest --capture=sys $(SANITIZED_TESTS)

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache dist build
