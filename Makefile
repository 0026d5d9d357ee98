# The few commands of the project. .ci/run calls them too, so each command is written once.
PYTHON ?= python3
VENV   ?= .venv
JOBS   ?= 2
OUT    ?= out/demo
ARGS   ?=
BIN    := $(VENV)/bin
FLOOR  := 95
# how packages get into an environment: INSTALL, then the environment's python, then what pip takes
INSTALL ?= .ci/install
PATHS  := src tests docs scripts README.md CONTRIBUTING.md SECURITY.md

.PHONY: help demo test test-all lint mypy pyright typing format coverage mutants census studies dist lanes ci ci-full clean
.DELETE_ON_ERROR:

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-14s %s\n", $$1, $$2 }'

demo: $(VENV)/.installed-demo  ## explain two real images offline; prints where the page is
	$(BIN)/seewhy demo -o $(OUT)

test: $(VENV)/.installed-test  ## the tests, without the slow ones
	$(BIN)/python -m pytest -q -n $(JOBS) -m "not slow" $(ARGS)

test-all: $(VENV)/.installed-test  ## all tests
	$(BIN)/python -m pytest -q -n $(JOBS) $(ARGS)

coverage:  ## the same tests as `make test`; fails if too few lines are run
	$(MAKE) test ARGS="--cov --cov-report=term:skip-covered --cov-fail-under=$(FLOOR) $(ARGS)"

lint: $(VENV)/.installed-lint  ## style, spelling, docstrings, imports and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell $(PATHS)
	$(BIN)/lint-imports
	$(BIN)/python .ci/docstrings src/seewhy
	$(MAKE) --jobs 2 mypy pyright

mypy: $(VENV)/.installed-lint
	$(BIN)/mypy

pyright: $(VENV)/.installed-lint
	$(BIN)/pyright --pythonpath $(BIN)/python

typing: $(VENV)/.installed-test $(VENV)/.installed-lint  ## what mypy and pyright tell a user
	$(BIN)/python -m pytest -q -n $(JOBS) tests/typing

format: $(VENV)/.installed-lint  ## put code and imports in the project's form
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

mutants: $(VENV)/.installed-test  ## break operators one at a time: do the tests notice? (an hour; ARGS="--only src/seewhy/bench --n 10")
	$(BIN)/python scripts/mutants.py --jobs $(JOBS) $(ARGS)

census: $(VENV)/.installed-test  ## every architecture family of the libraries: served, and rightly? (a quarter of an hour; resumes; ARGS="--only timm/")
	$(BIN)/python -m tests.models.census $(ARGS)

studies: $(VENV)/.installed-test  ## the pages of docs/studies (hours; ARGS="lafam_vit --quick --out /tmp/studies")
	$(BIN)/python -m scripts.studies $(ARGS)

dist: $(VENV)/.installed-dist  ## build the wheel and the sdist into dist/ and check them
	rm -rf dist build
	$(BIN)/python -m build --outdir dist .
	$(BIN)/twine check --strict dist/*

lanes: dist  ## the built wheel alone, with the demo and a benchmark, and with the oldest declared versions
	.ci/lanes dist $(VENV)-lanes

ci: lint typing coverage lanes  ## what CI runs

ci-full: ci test-all mutants  ## everything (hours)

clean:  ## remove the virtual environments, the output and the caches
	rm -rf $(VENV) $(VENV)-lanes out build dist .pytest_cache .ruff_cache .mypy_cache .coverage* src/*.egg-info
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# one stamp for each extra: pip runs again only when the requirements change
$(VENV)/.installed-%: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing seewhy[$*] into $(VENV) (PyTorch is large: this can take minutes)"
	$(INSTALL) $(BIN)/python -e '.[$*]' -c constraints.txt
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "seewhy needs Python 3.11 or newer, but $(PYTHON) is not; try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
