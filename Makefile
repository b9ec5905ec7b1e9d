# uv where it is installed, plain venv and pip where it is not.
UV := $(shell command -v uv 2>/dev/null)
PYTHON ?= python3
ENV := $(if $(filter python3,$(PYTHON)),.venv,.venv-$(notdir $(PYTHON)))
BIN := $(ENV)/bin
REAL := .venv-real
CODE := backends batch benchmarks cli.py examples generate_trajectory_from_questions.py graph nodes quality serializers servers studio tests training
MAX_LINES := 300

ifdef UV
VENV = $(UV) venv -q --allow-existing --python $(PYTHON)
INSTALL_IN = $(UV) pip install -q --compile-bytecode --python
else
VENV = $(PYTHON) -m venv
INSTALL_IN = pip() { "$$1" -m pip install -q --disable-pip-version-check "$${@:2}"; }; pip
endif
INSTALL = $(INSTALL_IN) $(BIN)/python
SHELL := bash
unexport PYTHONDONTWRITEBYTECODE  # the tests start the product some hundreds of times: it is compiled once

.PHONY: demo test long real loop wheel crash check format studio lock clean

demo: $(ENV)/runtime  ## bundled questions, demo model and tools, on this machine
	$(BIN)/trajgraph demo

test: $(ENV)/dev  ## all but the long ones; PYTHON=python3.13 for another Python
	$(BIN)/python -m pytest -m "not long"

long: $(ENV)/dev  ## runs of some seconds, processes that are killed, workers, clusters, databases and stores (minutes)
	$(BIN)/python -m pytest -m long

real: $(ENV)/dev $(REAL)/mcp/made $(REAL)/trainers/made  ## against parts that others wrote: llama.cpp, fastmcp, trainers
	TRAJGRAPH_REAL=1 $(BIN)/python -m pytest -n 0 tests/real

loop: $(ENV)/dev .venv-loop/made  ## trajectories train a small model, which makes trajectories (15 to 20 minutes): examples/
	TRAJGRAPH=$(CURDIR)/$(BIN)/trajgraph LOOP_PYTHON=$(CURDIR)/.venv-loop/bin/python examples/loop/run.sh loop_output

wheel:  ## built into dist/, installed into an empty environment, tried in an empty folder
	rm -rf dist .venv-wheel && $(VENV) .venv-wheel
	$(INSTALL_IN) .venv-wheel/bin/python -r requirements.lock
	$(INSTALL_IN) .venv-wheel/bin/python hatchling
	.venv-wheel/bin/python -m hatchling build -t wheel
	$(INSTALL_IN) .venv-wheel/bin/python --no-deps dist/*.whl
	cd "$$(mktemp -d)" && $(CURDIR)/.venv-wheel/bin/trajgraph demo --output demo && $(CURDIR)/.venv-wheel/bin/trajgraph status demo

crash: $(ENV)/dev  ## 200 questions, 30 random kills, one at every node boundary; 10,000 texts for the reader (minutes)
	CRASH_QUESTIONS=200 CRASH_KILLS=30 TAG_TEXTS=10000 $(BIN)/python -m pytest tests/e2e/test_kill.py tests/servers/test_corrections.py tests/serializers/test_tags.py

check: $(ENV)/dev  ## format, lint, types, imports, module size
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy
	$(BIN)/lint-imports
	@find $(CODE) -name '*.py' | xargs wc -l | awk '$$2 != "total" && $$1 > $(MAX_LINES) {print $$2 ": " $$1 " lines, $(MAX_LINES) at most"; bad = 1} END {exit bad}'

format: $(ENV)/dev
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

studio: $(ENV)/dev  ## LangGraph Studio
	$(BIN)/trajgraph studio

lock:  ## rewrite the lock files (needs uv)
	uv pip compile -q --universal --generate-hashes --python-version 3.11 --no-header --no-annotate -o requirements.lock pyproject.toml
	uv pip compile -q --universal --generate-hashes --python-version 3.11 --no-header --no-annotate --extra postgres --extra stores --extra ray --extra studio --extra training --group dev -o requirements-dev.lock pyproject.toml

clean:
	rm -rf .venv .venv-*

$(ENV)/runtime: requirements.lock pyproject.toml
	@echo "installing trajgraph and $$(grep -c == requirements.lock) packages into $(ENV) …"
	$(VENV) $(ENV)
	$(INSTALL) -r requirements.lock
	$(INSTALL) --no-deps -e .
	@touch $@

$(ENV)/dev: requirements-dev.lock $(ENV)/runtime
	@echo "installing $$(grep -c == requirements-dev.lock) packages for the tests into $(ENV) …"
	$(INSTALL) -r requirements-dev.lock
	@touch $@

$(REAL)/mcp/made: tests/real/requirements-mcp.txt
	$(VENV) $(REAL)/mcp
	$(INSTALL_IN) $(REAL)/mcp/bin/python -r $<
	@touch $@

$(REAL)/trainers/made: tests/real/requirements-trainers.txt tests/real/requirements-trainers-alone.txt
	$(VENV) $(REAL)/trainers
	$(INSTALL_IN) $(REAL)/trainers/bin/python -r $<
	$(INSTALL_IN) $(REAL)/trainers/bin/python --no-deps -r $(word 2,$^)
	@touch $@

.venv-loop/made: examples/loop/requirements.txt
	$(VENV) .venv-loop
	$(INSTALL_IN) .venv-loop/bin/python -r $<
	@touch $@
