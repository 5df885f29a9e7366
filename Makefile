# `make demo` runs the main job, `make test` everything that must hold. Both make their own .venv.
PYTHON ?= python3
VENV := .venv
ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
else
BIN := $(VENV)/bin
endif
STAMP := $(VENV)/.installed
# One tested environment for everything, build environments of packages included.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo demo-network test lint types layers sizes unit bench docs format clean

demo: $(STAMP)
	$(BIN)/shoal run examples/digits.py:compare --out runs/demo
	$(BIN)/shoal show runs/demo

demo-network: $(STAMP)
	$(BIN)/python examples/network_demo.py

test: lint types layers sizes unit

$(STAMP): pyproject.toml constraints.txt setup.py $(wildcard src/shoal/*/*.c src/shoal/*/*.h)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	$(BIN)/python -c "import pathlib; pathlib.Path('$(STAMP)').touch()"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

layers: $(STAMP)
	$(BIN)/lint-imports

sizes: $(STAMP)
	$(BIN)/python tools/sizes.py

unit: $(STAMP)
	$(BIN)/pytest -n 2

# make bench NAME=foundation [QUICK=1]
SCRIPT_codecs := compression# a file codecs.py would hide the standard library's
bench: $(STAMP)
	$(BIN)/python benchmarks/$(or $(SCRIPT_$(NAME)),$(NAME)).py $(if $(QUICK),--quick,)

docs: $(STAMP)
	$(BIN)/mkdocs build --strict

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) runs site build
