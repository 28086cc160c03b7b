# Everything runs in .venv, which `make setup` makes; a second run of it is instant.
# `make demo` and `make test` are the two commands of a fresh checkout.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The newest interpreter that is 3.11 or later; PYTHON=… on the command line decides otherwise.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)

# The tests of an ordinary user need a cgroup to set limits in: systemd's, where it gives one.
DELEGATED := systemd-run --user --scope --quiet --collect -p Delegate=yes
SCOPE = $(shell test "$$(id -u)" -eq 0 || { $(DELEGATED) true 2>/dev/null && echo $(DELEGATED); })

.PHONY: setup demo test test-wheels test-kills serve bench bench-quick profile lint clean

setup: $(STAMP)

$(STAMP): pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later is missing: sudo apt-get install python3 python3-venv" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -c 'import ensurepip' 2>/dev/null || \
		{ echo "the Debian package python3-venv is missing: sudo apt-get install python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import ctypes; ctypes.CDLL("libseccomp.so.2")' 2>/dev/null || \
		{ echo "the Debian package libseccomp2 is missing: sudo apt-get install libseccomp2" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,lint]'
	@touch $@

demo: setup
	@$(BIN)/pyfaas demo

test: setup
	@$(SCOPE) $(BIN)/python -m pytest -q $(ARGS)

# A hundred random kills under load; `make test` has a few.
test-kills: setup
	@$(SCOPE) $(BIN)/python -m pytest -q -s tests/e2e/test_sweep.py --kills 100 --timeout 1800 $(ARGS)

serve: setup
	@$(BIN)/pyfaas serve $(ARGS)

# Every package of tests/wheels does its small real job in a container; `make test` runs some of them.
test-wheels: setup
	@$(SCOPE) $(BIN)/python -m pytest -q tests/wheels --all-wheels $(ARGS)

bench: $(VENV)/.bench
	@$(BIN)/python -m benchmarks $(ARGS)

bench-quick: $(VENV)/.bench
	@$(BIN)/python -m benchmarks --quick $(ARGS)

# Where the microseconds of a warm call go, hop by hop.
profile: $(VENV)/.bench
	@$(BIN)/python -m benchmarks profile $(ARGS)

$(VENV)/.bench: $(STAMP)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@touch $@

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/mypy pyfaas sandbox

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build dist *.egg-info
