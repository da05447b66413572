# `make demo` and `make test` do everything on a fresh machine; both set up .venv first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-slow lint format docs clean

demo: .venv/installed
	$(BIN)/python run_search.py --space search_spaces/digits.yaml $(if $(wildcard results/digits/journal.jsonl),--resume)

# two at a time; a search has two workers of its own, so more would only wait for one another. Files with
# whole searches come first (tests/conftest.py)
test: .venv/installed
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

# what `make test` leaves out because it takes minutes each
test-slow: .venv/installed
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# the documentation site, into site/
docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

.venv/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	touch $@

clean:
	rm -rf .venv build site *.egg-info .pytest_cache .mypy_cache .ruff_cache
