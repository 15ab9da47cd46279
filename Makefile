# make demo, make test: everything else is made by them. EVAX_SHARED names a folder of real films for the tests that use some.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN ?= runs/demo
export OMP_NUM_THREADS ?= $(shell nproc)

.PHONY: install demo test test-long check bench docs clean

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/pip install --quiet torch torchvision
	$(BIN)/pip install --quiet --editable ".[all]" --group dev
	touch $@

demo: install
	$(BIN)/evax demo --out $(RUN)

test: install
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "not long" --numprocesses 2 --dist worksteal

test-long: install
	$(BIN)/pytest -m long

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: install
	$(BIN)/python benchmarks/loader.py
	$(BIN)/python benchmarks/read_images.py
	$(BIN)/python benchmarks/prepare.py
	$(BIN)/python benchmarks/pretrain_step.py
	$(BIN)/python benchmarks/bootstrap.py

docs: install
	$(BIN)/python docs/check.py
	$(BIN)/sphinx-build -q -W --keep-going -b html docs build/site
	@echo build/site/index.html

clean:
	rm -rf $(VENV) runs build dist
