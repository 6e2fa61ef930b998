# Every target sets up what it needs in .venv first (bootstrap.py); the second time that takes no time.
#   make demo ARGS="--workers 2"      make test PYTEST_ARGS="-k solver -x"      make PYTHON=/usr/bin/python3.12 demo

PYTHON ?= python3
ARGS ?=
PYTEST_ARGS ?=
JOBS ?= 2
export PYTHONUNBUFFERED = 1

.DEFAULT_GOAL := help
.PHONY: help demo test sanitize cluster-test chaos exhaustive lint bench clean clean-all

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: ## train, encode, sample, evaluate and report on this machine, in minutes (ARGS="...")
	@$(PYTHON) bootstrap.py run
	@.venv/bin/gensys demo $(ARGS)

test: ## the test suite, two files at a time, a thread each (JOBS=4 PYTEST_ARGS="...")
	@$(PYTHON) bootstrap.py test
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

sanitize: ## the C++ tests of the kernels under AddressSanitizer and UndefinedBehaviorSanitizer
	@$(PYTHON) bootstrap.py test
	.venv/bin/python -m pytest -m sanitize tests/kernels/test_sanitizers.py $(PYTEST_ARGS)

cluster-test: ## `ray up`, `ray submit`, a cut link and `ray down`, on three hosts made of namespaces (root)
	@$(PYTHON) bootstrap.py test
	.venv/bin/python -m pytest -m cluster tests/cluster $(PYTEST_ARGS)

chaos: ## a hundred kills and more while encoding, training and sampling (SEED=7 JSON=FILE); a full disk needs root
	@$(PYTHON) bootstrap.py test
	CHAOS_SEED=$(or $(SEED),0) CHAOS_JSON=$(JSON) .venv/bin/python -m pytest -s -o faulthandler_timeout=0 -m chaos tests/chaos $(PYTEST_ARGS)

exhaustive: ## kills at every single system call that matters, and what else takes minutes; the normal tests have short versions
	@$(PYTHON) bootstrap.py test
	.venv/bin/python -m pytest -m exhaustive tests $(PYTEST_ARGS)

lint: ## ruff check, ruff format --check, pyright
	@$(PYTHON) bootstrap.py test
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/pyright

bench: ## gensys against plain torch and torch.compile (ARGS="kernels --peers --json FILE")
	@$(PYTHON) bootstrap.py run
	@.venv/bin/gensys bench $(or $(ARGS),kernels)

clean: ## what testing leaves behind (keeps .venv, its compiled kernels and runs/)
	rm -rf dist .pytest_cache .ruff_cache .hypothesis
	find gensys pipelines tests -name __pycache__ -type d -prune -exec rm -rf {} +

clean-all: clean ## that, and everything that the set-up made
	rm -rf .venv build ./*.egg-info gensys/_native*.so
