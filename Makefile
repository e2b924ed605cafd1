# Two commands: `make demo` runs the main job on synthetic scans, `make test` runs the tests. Both set up what they need.
#
#   make demo        plan, train, predict, evaluate on phantoms; a table and a picture at the end
#   make test        all tests that need no other program and no minutes each, on up to four processors
#   make test-all    the slow ones, too, one after the other
#   make lint        ruff, mypy, import contracts
#   make docs        the documentation as a site in site/
#   make bench       the benchmarks of tests/benchmarks/
#
# TORCH is what gives torch, for example on a machine without a GPU:
#   make demo TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check
#: The reference implementations of the network and of surface metrics, for tests only; their own dependencies are not needed.
ORACLES := dynamic_network_architectures==0.4.4 surface-distance==0.1
#: Files of tests run side by side, one processor each (tests/conftest.py), in their order: the last ones are short.
SIDE_BY_SIDE := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-all lint docs bench clean

$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH)
	@touch $@

$(VENV)/.runtime: $(VENV)/.torch setup.cfg constraints.txt
	$(PIP) -c constraints.txt -e .
	@touch $@

$(VENV)/.tests: $(VENV)/.runtime
	$(PIP) -c constraints.txt -e .[test]
	$(PIP) --no-deps $(ORACLES)
	@touch $@

$(VENV)/.lint: $(VENV)/.runtime
	$(PIP) -c constraints.txt -e .[lint]
	@touch $@

$(VENV)/.docs: $(VENV)/.runtime
	$(PIP) -c constraints.txt -e .[docs]
	@touch $@

demo: $(VENV)/.runtime
	$(BIN)/autoseg demo

test: $(VENV)/.tests
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not slow and not peer and not browser and not gpu"

test-all: $(VENV)/.tests
	$(BIN)/python -m pytest -m "not peer and not browser and not gpu"

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --config setup.cfg

docs: $(VENV)/.docs
	$(BIN)/mkdocs build -q --strict
	@echo "site/index.html"

bench: $(VENV)/.tests
	$(BIN)/python -m tests.benchmarks

clean:
	rm -rf $(VENV) build dist site *.egg-info autoseg-demo autoseg-workspace
