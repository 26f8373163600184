# Each target makes the virtual environment it needs, with what it needs and nothing more.
# PYTHON names another interpreter (make test PYTHON=python3.13t), ARGS goes to what is run (make test ARGS="-k lease").

PYTHON ?= python3
ARGS ?=

venv := .venv$(if $(filter-out python3,$(PYTHON)),-$(notdir $(PYTHON)))
python := $(venv)/bin/python

# Asked of the environment's own interpreter, once it stands. Without a GIL, only wheels are sure to install, and an
# extension that does not know such an interpreter (greenlet) would switch the GIL on: PYTHON_GIL=0 keeps it off.
free_threaded = $(shell $(python) -c 'import sysconfig; print(sysconfig.get_config_var("Py_GIL_DISABLED") or "")')
run = $(if $(free_threaded),PYTHON_GIL=0 )$(python)

# What each target installs.
needs_test := --group test --editable .
needs_uwsgi := --group uwsgi --editable .
needs_check := --group dev --editable .
needs_bench := --group bench --editable .
needs_mutants := --group mutants --editable .
needs_demo := --editable '.[demo]'
needs_figures := --group figures --editable .

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:  # two targets would install into one environment at once
.PHONY: help demo bench test uwsgi matrix soak mutants model proof docs-figures check format clean

help: ## list these targets (the default)
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

demo: $(venv)/demo.stamp ## a noisy tenant beside a polite one, without flowctl and with it (ARGS=--serve keeps serving)
	@$(run) -m flowctl.demo $(ARGS)

bench: $(venv)/bench.stamp ## measure contention and speed on real threads (ARGS=--quick for 1 minute, ARGS=--help)
	@$(run) -m benchmarks $(ARGS)

test: $(venv)/test.stamp ## run the tests (ARGS="-k lease" for some of them)
	$(run) -m pytest $(ARGS)

uwsgi: $(venv)/uwsgi.stamp ## build uWSGI, so that make test asks it too (needs a C compiler; 20 s)

matrix: $(venv)/test.stamp $(venv)/uwsgi.stamp ## ask five servers all questions, and write the table in docs/servers.md
	@$(run) -m tests.servers.matrix

soak: $(venv)/test.stamp ## look for what only hours show: faults under load (ARGS=--quick for 2 minutes)
	@$(run) -m tests.soak $(ARGS)

mutants: $(venv)/mutants.stamp ## break the core in 300 ways: do the tests notice? (ARGS="--sample 50" for fewer)
	@$(run) -m tools.mutants $(ARGS)

model: $(venv)/test.stamp ## check the Promela models (needs spin and a C compiler; ARGS="-k ticket" for some claims)
	@$(run) -m tests.model $(ARGS)

proof: $(venv)/mutants.stamp ## prove it all and write docs/proof.md (ARGS=--quick: 10 minutes, without mutants)
	@$(run) -m tests.proof $(ARGS)

docs-figures: $(venv)/figures.stamp ## draw the figures of docs/ anew
	@$(run) -m tests.policies.figures

check: $(venv)/check.stamp ## check format, lint, types and structure
	$(run) -m ruff format --check .
	$(run) -m ruff check .
	$(run) -m mypy $(wildcard flowctl tests benchmarks docs/examples)
	$(run) -m pytest tests/structure

format: $(venv)/check.stamp ## format the code and apply the linter's safe fixes
	$(run) -m ruff check --fix-only .
	$(run) -m ruff format .

clean: ## remove environments, caches and build output (a built interpreter stays)
	rm -rf .venv .venv-* build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find $(wildcard flowctl tests benchmarks docs) -name __pycache__ -prune -exec rm -rf {} +

# An install that was interrupted leaves its mark: nothing in that environment can be trusted, so it is made anew.
$(shell test ! -e $(venv)/unfinished || rm -rf $(venv))

$(venv)/venv.stamp:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo 'flowctl needs Python 3.11 or newer; PYTHON=... names another' >&2; exit 1; }
	@echo 'making $(venv)'
	@$(PYTHON) -m venv --clear $(venv)
	@$(python) -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'  # the first that knows --group
	@touch $@

$(venv)/test.stamp $(venv)/uwsgi.stamp $(venv)/check.stamp $(venv)/bench.stamp $(venv)/demo.stamp $(venv)/mutants.stamp $(venv)/figures.stamp: $(venv)/%.stamp: pyproject.toml | $(venv)/venv.stamp
	@$(if $(and $(filter check mutants,$*),$(free_threaded)),echo 'make $* needs a Python with a GIL: its tools do not install on this one' >&2; exit 1)
	@echo 'installing into $(venv) what make $* needs'
	@touch $(venv)/unfinished
	@$(python) -m pip install --quiet --disable-pip-version-check $(if $(free_threaded),--prefer-binary) $(needs_$*)
	@rm $(venv)/unfinished
	@touch $@
