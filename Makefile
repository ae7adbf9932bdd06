# Everything runs in .venv, which is made on first use and again only when the requirements change.
PYTHON ?= python3
OUT ?= gpu-check

BIN := .venv/bin
VEGA := vega@6.4.0 vega-lite@6.4.3 vega-embed@7.3.0
VEGA_IN := bench/report/site/static/vega
INSTALLED := .venv/.installed
# One process per core, one test file at a time each, so that the setup of a file runs once.
PARALLEL := -n logical --maxprocesses 8 --dist loadfile
CODE := bench methods examples perf tests

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo test test-slow test-browser test-slurm lint check gpu-check vega

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "PYTHON=$(PYTHON) makes .venv; to choose another: make test PYTHON=python3.12"

install: $(INSTALLED) ## Make .venv and install the pinned packages

demo: $(INSTALLED) ## DeACL on digits, from raw images to a row of your own beside the published ones
	$(BIN)/bench run deacl --dataset digits --protocols slf
	$(BIN)/bench leaderboard --dataset digits --protocol slf --tier tiny --short

test: $(INSTALLED) ## The tests that take seconds
	$(BIN)/python -m pytest -m "not slow and not browser and not slurm" $(PARALLEL)

test-slow: $(INSTALLED) ## The tests that take minutes
	$(BIN)/python -m pytest -m slow $(PARALLEL)

test-browser: $(INSTALLED) ## The site in a headless Chromium, where one is installed
	$(BIN)/python -m pytest -m browser -rs tests/test_site_browser.py

test-slurm: $(INSTALLED) ## A grid on a real Slurm of this machine, where slurm-wlm and munge are installed
	$(BIN)/python -m pytest -m slurm -rs tests/test_slurm.py

lint: $(INSTALLED) ## Style, types and spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(CODE)
	$(BIN)/codespell $(CODE) docs *.md Makefile pyproject.toml

check: $(INSTALLED) ## Compare the committed leaderboard with the published records
	$(BIN)/bench leaderboard --check

gpu-check: $(INSTALLED) ## At most eight minutes on a GPU: does all work, how fast; results in OUT
	$(BIN)/python perf/gpu_check/check.py $(OUT)

vega: ## Fetch the site's chart library again: the released builds, and the licences of their contents
	folder=$$(mktemp -d) && \
	npm install --silent --ignore-scripts --no-audit --no-fund --prefix $$folder $(VEGA) && \
	cp $$folder/node_modules/vega/build/vega.min.js $$folder/node_modules/vega-lite/build/vega-lite.min.js \
		$$folder/node_modules/vega-embed/build/vega-embed.min.js $(VEGA_IN)/ && \
	(cd $$folder/node_modules && for file in */LICENSE*; do printf '\n===== %s\n\n' "$${file%/*}"; cat "$$file"; done) \
		> $(VEGA_IN)/LICENSES.txt && \
	rm -r $$folder

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --constraint constraints.txt --editable ".[dev]"
	touch $@
