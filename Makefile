# `make book` builds the site, `make test` runs every test, `make campaign` all faults of which they
# try a sample, `make bench` measures the speed of every stage in under two minutes; each makes the
# environment $(VENV) first.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# One thread: sums are added in the same order on every machine, and a busy one is no slower for it.
export OMP_NUM_THREADS ?= 1
# Where it is set, a notebook's figures would not be shown.
unexport MPLBACKEND

.PHONY: bench book campaign env test

book: env
	$(BIN)/python notebooks/execute.py
	$(BIN)/jupyter-book build book/
	@echo "The book: $(CURDIR)/_build/html/index.html"

test: env
	$(BIN)/ruff check
	$(BIN)/ruff format --check reproduce tests benchmarks
	$(BIN)/mypy
	$(BIN)/pytest
	$(BIN)/pytest --nbval book/
	$(BIN)/pytest --nbval-lax notebooks/ --ignore-glob='*/run_*'
	new=$$(mktemp -d) && REPRODUCE_RESULTS=$$new REPRODUCE_CACHE=$$new $(BIN)/pytest --nbval-lax notebooks/run_*.ipynb; \
	failed=$$?; rm -rf $$new; exit $$failed
	$(BIN)/jupyter-book build -W -n --keep-going --all book/

# All that `make test` takes a sample of: wrong values, files and attacks, kills and full disks.
campaign: env
	$(BIN)/pytest tests/campaign --whole

# As many threads as there are: here speed is the point.
bench: env
	env -u OMP_NUM_THREADS $(BIN)/python benchmarks/speed.py

env: $(VENV)/installed

$(VENV)/installed: requirements.txt constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -r requirements.txt -c constraints.txt
	$(BIN)/pip install --no-deps -e .
	@touch $@
