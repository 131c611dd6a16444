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

.PHONY: install demo test lint format sanitize clean

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

# The tests of the kernels on a build that stops at the first wrong access or undefined operation.
# -S: Python finds packages by PYTHONPATH alone: the sanitized Ramet comes first, the editable one is not there.
SANITIZED := build/sanitize
SANITIZED_PYTHON = env \
    LD_PRELOAD="$$($${CXX:-c++} -print-file-name=libasan.so) $$($${CXX:-c++} -print-file-name=libubsan.so)" \
    ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
    PYTHONPATH="$(CURDIR)/$(SANITIZED)/site:$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))')" \
    $(BIN)/python -S
sanitize: install
	$(PIP) install --verbose --no-build-isolation --no-deps --upgrade --target $(SANITIZED)/site \
	    -C build-dir=$(SANITIZED)/cmake -C cmake.build-type=Debug -C cmake.define.RAMET_SANITIZE=ON .
	$(SANITIZED_PYTHON) -c 'import sys; from ramet import kernels; sys.exit(kernels.why_unavailable())'
	$(SANITIZED_PYTHON) -m pytest tests/kernels tests/grammar/test_token_index.py

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache dist build
