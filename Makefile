# On a machine with Python >= 3.11 and make, three commands do everything:
#   make book     install a small part (no torch), build the book from the committed records, say where it is
#   make report   install, fetch the embedded models and texts, run the notebooks, build the book, say where it is
#   make test     install, run the tests
# Settings: PYTHON=python3.12 (which Python makes .venv), CORES=4 (default: all), EXTRAS=dev,gpu (optional parts),
# ARGS="..." (handed to snakemake by report and full, to pytest by test).

PYTHON ?= python3
CORES ?= all
EXTRAS ?= dev
ARGS ?=
BIN := .venv/bin
READY := .venv/.ready-$(EXTRAS)
SMALL := .venv/.ready-to-read
# The cores of this machine are no limit to jobs that a profile sends elsewhere.
LIMIT := $(if $(findstring --profile,$(ARGS)),,--cores $(CORES))
NOTEBOOKS := $(wildcard notebooks/*.md)
# Python keeps what it compiled, where an image says otherwise as well: a report starts dozens of processes that import the
# same packages, and each would compile them anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help book report full sweep handouts slides pdf serve test lint format notebooks pins clean
.DELETE_ON_ERROR:

help:
	@sed -n 's/^#   //p' Makefile
	@echo "also: full (the published runs, needs a GPU), sweep, handouts, slides, pdf, serve, lint, format, notebooks, pins, clean"

# Where everything is installed already, that serves as well.
book: $(or $(wildcard $(READY)),$(SMALL))
	@$(BIN)/python workflow/published.py --cores $(CORES)

report: $(READY)
	@$(BIN)/python workflow/report.py quick $(LIMIT) $(ARGS)

full: $(READY)
	@$(BIN)/python workflow/report.py full $(LIMIT) $(ARGS)

# Compute a sweep: make sweep SWEEP=config/sweeps/pruning.yaml
sweep: $(READY)
	@test -n "$(SWEEP)" || { echo "Name a sweep file: make sweep SWEEP=config/sweeps/pruning.yaml"; exit 2; }
	@$(BIN)/python workflow/sweep.py "$(SWEEP)" $(LIMIT) $(ARGS)

# Exercises as notebooks, with and without solutions, and the worked examples, for a class.
handouts: $(READY)
	@$(BIN)/python workflow/scripts/handouts.py build/handouts

# The concept pages of the built book as slides, a file each that needs no network: build/slides.
slides: $(READY)
	@$(BIN)/python workflow/scripts/slides.py build/book/_build/html build/slides

# The built book as one file, build/lmcompress.pdf; needs chromium.
pdf: $(READY)
	@$(BIN)/python workflow/scripts/pdf.py build/book/_build/html build/lmcompress.pdf

# Read the built book as a browser would from a web server: http://localhost:8000
serve: $(READY)
	@test -f build/book/_build/html/index.html || { echo "There is no report yet: make report"; exit 1; }
	$(BIN)/python -m http.server 8000 --bind 127.0.0.1 --directory build/book/_build/html

# One thread a process: two processes share the cores better than two threads each do.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile --cov --cov-report term $(ARGS)

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/codespell
	@$(BIN)/python -m pip_audit --version >/dev/null 2>&1 || $(BIN)/python -m pip install --quiet pip-audit || true
	$(BIN)/python .ci/audit.py

format: $(READY)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# The parameters cells, from the Studies, and the twins of notebooks/*.md that Jupyter, papermill and Colab open; these carry
# no outputs.
notebooks: $(READY)
	@$(BIN)/python workflow/scripts/cells.py $(NOTEBOOKS)
	@$(MAKE) --no-print-directory $(NOTEBOOKS:.md=.ipynb)
notebooks/%.ipynb: notebooks/%.md | $(READY)
	@# --update keeps the identifiers of the cells that stayed, and with them the diff small.
	$(BIN)/jupytext --quiet --to ipynb --update --output $@ $<
	$(BIN)/jupyter nbconvert --log-level ERROR --clear-output --inplace $@

# Resolve all dependencies again within the pins (ARGS=--upgrade: to the newest), for constraints.txt and environment.yml.
pins: $(READY)
	$(BIN)/python .ci/pins.py $(ARGS)

# What was computed (build/records) goes too; the fetched models and texts in data/cache stay.
clean:
	rm -rf build .snakemake .pytest_cache .ruff_cache .hypothesis .coverage*

$(READY): PARTS := [run,$(EXTRAS)]
$(SMALL) $(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "lmcompress needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1)."; \
	  echo "Name a newer one: make PYTHON=python3.12 ..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { rm -rf .venv; \
	  echo "'$(PYTHON)' cannot make a virtual environment (on Debian and Ubuntu: apt-get install python3-venv)."; exit 1; }
	@echo "Installing into .venv (a minute or some, once)."
	@# Not compiled: Python compiles what it uses when it is first used, which is a small part.
	@$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable ".$(PARTS)"
	@touch $@
