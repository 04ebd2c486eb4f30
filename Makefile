# `make` alone shows the menu. Everything needs only a Python from 3.11 on; the rest installs itself.

# A version manager may put names on the PATH that do not run: the first one that works is taken.
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done)
NEEDED = $(or $(PYTHON),$(error Python 3.11 or newer is needed, and none is on the PATH))
START = @exec $(NEEDED) stack/bootstrap.py
CHECK = @$(NEEDED) stack/bootstrap.py --dev

# Extra arguments for test, seed, bench and clean: make test ARGS="-k flush"
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help run status seed clean test chaos lint bench bench-detector lock env

help: ## Show this menu
	@awk 'BEGIN {FS = ":.*## "} \
		/^##@/ {printf "\n%s\n", substr($$0, 5)} \
		/^[a-z-]+:.*## / {printf "  make %-7s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

##@ Use it

run: ## Start everything: API on port 3000, Flower on 5555 (API_PORT, FLOWER_PORT); Ctrl-C stops it
	$(START) stack run

status: ## Show which processes of `make run` are up
	$(START) stack status

seed: ## Send a day of sample data to the running API (ARGS="--help" shows the knobs)
	$(START) seed fleet $(ARGS)

clean: ## Delete .local/ with all its data and keys, after asking (ARGS=--yes does not ask)
	$(START) stack clean $(ARGS)

##@ Work on it

test: ## Run the tests with coverage, beside a running `make run` if need be (ARGS="-k flush")
	$(CHECK) pytest --cov --cov-report=term:skip-covered $(ARGS)

# Of chaos: how long faults go on, which dice, which faults (ARGS=--list names them); ROWS=1 runs the
# rows of docs/reliability.md that `make test` leaves out.
SECONDS ?= 60
SEED ?=
FAULTS ?= *
ROWS ?=

chaos: ## Load and check the whole product while its parts are killed (SECONDS, SEED, FAULTS, ROWS)
	$(if $(ROWS),$(CHECK) pytest -m chaos $(ARGS),$(CHECK) tests.chaos --seconds $(SECONDS) --faults '$(FAULTS)' $(if $(SEED),--seed $(SEED)) $(ARGS))

lint: ## Check style, formatting, types, the direction of imports, known vulnerabilities
	$(CHECK) ruff check .
	$(CHECK) ruff format --check .
	$(CHECK) mypy
	@.venv/bin/python .venv/bin/lint-imports
	$(CHECK) stack.audit

bench: ## Measure readings per second and latencies; prints a table
	@exec $(NEEDED) stack/bootstrap.py --dev bench $(ARGS)

bench-detector: ## Simulate a fleet: false alarms per vehicle-year, delay per fault
	@exec $(NEEDED) stack/bootstrap.py --dev bench.detector $(ARGS)

lock: ## Recompile requirements*.txt from requirements*.in (pinned, hashed)
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && \
	$(NEEDED) -m venv "$$folder" && "$$folder/bin/pip" install --quiet uv && \
	for name in requirements requirements-dev; do \
		"$$folder/bin/uv" pip compile --universal --python-version 3.11 --generate-hashes -q \
			$$name.in -o $$name.txt --custom-compile-command "make lock" || exit 1; \
	done

##@ Deploy it

env: ## Write .env for docker-compose.yml, with a random value for every secret
	@exec $(NEEDED) stack/env.py
