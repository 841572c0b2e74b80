# Needs Python 3.11 or newer; everything else goes into .venv.
PYTHON ?= python3
PRESET ?= mini
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help reproduce test audit exactness faults bench bench-check lab reference clean

help:  ## Show this list.
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*## /\t/' | expand -t 12

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[all]"
	@touch $@

.venv/installed-test: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[all,test,ui]"
	@touch $@

reproduce: .venv/installed  ## Train the three stages on the embedded data, draw the figures, execute the notebooks.
	$(BIN)/python -m clrkit reproduce --preset $(PRESET)

test: .venv/installed-test  ## Every check: format, lint, types, unit tests, notebooks, browser; one summary.
	$(BIN)/python tools/test.py

.venv/installed-audit: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[all,audit]"
	@touch $@

audit: .venv/installed-audit  ## Are vulnerabilities known of the pinned dependencies? Asks osv.dev.
	$(BIN)/pip-audit --vulnerability-service osv --requirement constraints.txt --no-deps --disable-pip \
		--progress-spinner off

exactness: .venv/installed-test  ## Write docs/exactness.md anew: how far every part is from the official code.
	@test -n "$$CLRKIT_GOLDEN" || { echo "Set CLRKIT_GOLDEN to the whole set of official numbers."; exit 1; }
	$(BIN)/python -m pytest $$(grep -lE 'def test.*\bexact\b' $$(git ls-files "tests/*.py")) --exactness docs/exactness.md

faults: .venv/installed-test  ## Write docs/faults.md anew: what goes wrong in the tests, and what it costs.
	$(BIN)/python -m pytest $$(grep -lE '\bfault\(' $$(git ls-files "tests/*.py")) --faults docs/faults.md

.venv/installed-bench: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[all,bench]"
	@touch $@

bench: .venv/installed-bench  ## Speed and memory beside the peers, about 25 minutes: results/benchmarks.
	$(BIN)/python -m benchmarks.step --preset mini
	$(BIN)/python -m benchmarks.step --preset cifar10_official --batch_size 32 --seconds 8
	$(BIN)/python -m benchmarks.loss
	$(BIN)/python -m benchmarks.augmentation
	$(BIN)/python -m benchmarks.streaming
	$(BIN)/python -m benchmarks.switches --preset mini
	$(BIN)/python -m benchmarks.switches --preset cifar10_official --batch_size 32 --seconds 4
	$(BIN)/python -m benchmarks.precision --preset mini
	$(BIN)/python -m benchmarks.cost
	$(BIN)/python -m benchmarks.states
	$(BIN)/python -m benchmarks.startup
	$(BIN)/python -m benchmarks.page

bench-check: .venv/installed  ## Half a minute: never slower than the plain version, NT-Xent in an eighth of its memory.
	$(BIN)/python -m benchmarks.check

lab: .venv/installed  ## Open JupyterLab on the notebooks, for this machine alone and behind its token.
	$(BIN)/jupyter lab --ServerApp.ip=127.0.0.1 --notebook-dir=. notebooks/00_start_here.ipynb

reference: .venv/installed  ## Make your own results of the preset the committed reference.
	$(BIN)/python tools/make_reference.py $(PRESET)

clean:  ## Delete the virtual environment; results stay (see: python -m clrkit clean --help).
	rm -rf .venv
