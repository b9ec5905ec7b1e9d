# uv where it is installed, plain venv and pip where it is not.
UV := $(shell command -v uv 2>/dev/null)
PYTHON ?= python3
BIN := .venv/bin
CODE := backends benchmarks cli.py graph nodes serializers tests training
MAX_LINES := 300

ifdef UV
VENV = $(UV) venv -q --allow-existing --python $(PYTHON) .venv
INSTALL = $(UV) pip install -q --compile-bytecode --python $(BIN)/python
else
VENV = $(PYTHON) -m venv .venv
INSTALL = $(BIN)/python -m pip install -q --disable-pip-version-check
endif

.PHONY: demo test crash check format studio lock clean

demo: .venv/runtime  ## bundled questions, demo model and tools, on this machine
	$(BIN)/trajgraph demo

test: .venv/dev  ## the whole suite
	$(BIN)/python -m pytest

crash: .venv/dev  ## 200 questions, 30 random kills, one at every node boundary; 10,000 texts for the reader (minutes)
	CRASH_QUESTIONS=200 CRASH_KILLS=30 TAG_TEXTS=10000 $(BIN)/python -m pytest tests/crash tests/test_tags.py

check: .venv/dev  ## format, lint, types, imports, module size
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy
	$(BIN)/lint-imports
	@find $(CODE) -name '*.py' | xargs wc -l | awk '$$2 != "total" && $$1 > $(MAX_LINES) {print $$2 ": " $$1 " lines, $(MAX_LINES) at most"; bad = 1} END {exit bad}'

format: .venv/dev
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

studio: .venv/dev  ## LangGraph Studio
	$(BIN)/trajgraph studio

lock:  ## rewrite the lock files (needs uv)
	uv pip compile -q --universal --generate-hashes --python-version 3.11 --no-header --no-annotate -o requirements.lock pyproject.toml
	uv pip compile -q --universal --generate-hashes --python-version 3.11 --no-header --no-annotate --extra studio --extra training --group dev -o requirements-dev.lock pyproject.toml

clean:
	rm -rf .venv

.venv/runtime: requirements.lock pyproject.toml
	$(VENV)
	$(INSTALL) -r requirements.lock
	$(INSTALL) --no-deps -e .
	@touch $@

.venv/dev: requirements-dev.lock .venv/runtime
	$(INSTALL) -r requirements-dev.lock
	@touch $@
