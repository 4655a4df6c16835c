# `make book` builds the site, `make test` runs every test, `make campaign` all faults of which they
# try a sample, `make browser` the tests that visit the site (chromium and node are needed), `make
# bench` measures the speed of every stage in under two minutes; each makes the environment $(VENV)
# first. `make results SCALE=smoke [PAPER=dqa]` runs what is missing as Snakemake's jobs, `make
# test-engine` some of them under SLURM. `make clean` removes what can be built again, and no
# environment, record, weight or checkpoint.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# One thread: sums are added in the same order on every machine, and a busy one is no slower for it.
export OMP_NUM_THREADS ?= 1
# Where it is set, a notebook's figures would not be shown.
unexport MPLBACKEND

.PHONY: asked bench book browser campaign clean env results test test-engine

book: env
	$(BIN)/python notebooks/execute.py
	$(BIN)/jupyter-book build book/
	@echo "The book: $(CURDIR)/_build/html/index.html"

test: env
	$(BIN)/ruff check
	$(BIN)/ruff format --check reproduce tests benchmarks
	$(BIN)/mypy
	$(BIN)/pytest --ignore=tests/engine
	$(BIN)/pytest --nbval book/
	$(BIN)/pytest --nbval-lax notebooks/ --ignore-glob='*/run_*'
	new=$$(mktemp -d) && REPRODUCE_RESULTS=$$new REPRODUCE_CACHE=$$new $(BIN)/pytest --nbval-lax notebooks/run_*.ipynb; \
	failed=$$?; rm -rf $$new; exit $$failed
	$(BIN)/jupyter-book build -W -n --keep-going --all book/
	$(BIN)/pytest tests/browser

# What it installs in tests/browser, `make test` uses from then on.
browser: book
	cd tests/browser && npm ci
	$(BIN)/pytest tests/browser

# All that `make test` takes a sample of: wrong values, files and attacks, kills and full disks.
campaign: env
	$(BIN)/pytest tests/campaign --whole

# As many threads as there are: here speed is the point.
bench: env
	env -u OMP_NUM_THREADS $(BIN)/python benchmarks/speed.py

# As many jobs as cores, one thread each. A snakemake in PATH will do; PROFILE=slurm sends them to SLURM.
PROFILE ?= local
SNAKEMAKE := $(or $(wildcard $(BIN)/snakemake),$(shell command -v snakemake))

results: asked env
	$(SNAKEMAKE) --profile profiles/$(PROFILE) \
	  --config python=$(CURDIR)/$(BIN)/python scale=$(SCALE) $(if $(PAPER),paper=$(PAPER))

# Before an environment is made for nothing.
asked:
	$(if $(SCALE),,$(error Say of what scale: make results SCALE=smoke, laptop, workstation or paper))
	$(if $(SNAKEMAKE),,$(error Snakemake is missing: $(BIN)/pip install '.[engine]', or pipx install snakemake))

test-engine: env
	$(BIN)/pytest tests/test_snakefile.py tests/engine

clean:
	rm -rf _build build .snakemake .pytest_cache .ruff_cache .mypy_cache .hypothesis tests/browser/node_modules
	find reproduce tests notebooks benchmarks book -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf

env: $(VENV)/installed

$(VENV)/installed: requirements.txt constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -r requirements.txt -c constraints.txt
	$(BIN)/pip install --no-deps -e .
	@touch $@
