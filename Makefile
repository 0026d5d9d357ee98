# The few commands of the project. .ci/run calls them too, so each command is written once.
PYTHON ?= python3
VENV   ?= .venv
JOBS   ?= 2
OUT    ?= out/demo
BIN    := $(VENV)/bin

.PHONY: help demo test test-all lint clean
.DELETE_ON_ERROR:

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-14s %s\n", $$1, $$2 }'

demo: $(VENV)/.installed-demo  ## explain two real photos offline; prints where the page is
	$(BIN)/seewhy demo -o $(OUT)

test: $(VENV)/.installed-test  ## the tests, without the slow ones
	$(BIN)/python -m pytest -q -n $(JOBS) -m "not slow"

test-all: $(VENV)/.installed-test  ## all tests
	$(BIN)/python -m pytest -q -n $(JOBS)

lint: $(VENV)/.installed-lint  ## ruff
	$(BIN)/ruff check .

clean:  ## remove the virtual environment, the output and the caches
	rm -rf $(VENV) out build dist .pytest_cache .ruff_cache src/*.egg-info
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# one stamp for each extra: pip runs again only when the requirements change
$(VENV)/.installed-%: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing seewhy[$*] into $(VENV) (PyTorch is large: this can take minutes)"
	$(BIN)/python -m pip install -qq --disable-pip-version-check -e '.[$*]' -c constraints.txt
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "seewhy needs Python 3.11 or newer, but $(PYTHON) is not; try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
