.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
COMPILED := build/compiled
# Compiled once and kept: the tests start some five hundred processes, and each would compile all of the gateway anew.
export PYTHONDONTWRITEBYTECODE :=
# Tests kill processes, not machines: their databases need no disk, and a slow one is most of what they wait for.
MEMORY := $(shell test "$$(df -k --output=avail /dev/shm 2>/dev/null | tail -1)" -gt 2000000 2>/dev/null && echo /dev/shm)
# Many tests wait for a clock or a process, so two for a core (of two cores: 260 s, where three workers take 305).
TEST_WORKERS ?= $(shell cores=$$(nproc); echo $$((cores < 4 ? 2 * cores : 8)))

help: ## What can be made here
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

install: .venv/ready ## A virtual environment in .venv with the `gateway` command

.venv/ready: pyproject.toml requirements/runtime.txt requirements/dev.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

run: install ## A gateway, a demo upstream, a funded key, and a curl line to paste
	$(BIN)/gateway dev

wheel: $(COMPILED)/ready ## A wheel with the hot path compiled, into dist/ (Debian: apt-get install gcc libc6-dev)

# With the dependencies of .venv, but not its gateway.
$(COMPILED)/ready: .venv/ready setup.py $(shell find gateway -name '*.py')
	rm -rf dist $(COMPILED) && $(PYTHON) -m venv $(COMPILED)
	GATEWAY_COMPILE=1 $(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > \
		$$($(COMPILED)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/dependencies.pth
	$(COMPILED)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-index dist/*.whl
	@touch $@

test test-browser test-compiled torture: export TMPDIR := $(or $(MEMORY),$(TMPDIR),/tmp)

test: install ## Every test, with counts that fit in minutes
	# Who starves beside the others is asked once more, alone. What is broken fails again, and then says with what values:
	# for that, pytest rewrites each assertion, and every worker would first do so with all tests.
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadgroup --assert=plain --tb=short || \
		$(BIN)/python -m pytest --last-failed --last-failed-no-failures none

test-browser: install ## The pages, in a real browser (Debian: apt-get install chromium chromium-driver)
	$(BIN)/python -m pytest tests/browser

# Beside a copy of the tests there is no `gateway` to be imported but the one that was installed.
test-compiled: $(COMPILED)/ready ## The tests of the hot path, with the hot path compiled
	$(COMPILED)/bin/gateway version | grep compiled
	rm -rf build/tested && mkdir build/tested && cp -r $(filter-out gateway build dist data,$(wildcard *)) build/tested
	cd build/tested && $(abspath $(COMPILED))/bin/python -m pytest -n $(TEST_WORKERS) --dist loadgroup --assert=plain --tb=short -m "not pure" \
		tests/proxy tests/server tests/upstreams tests/credits tests/observe tests/e2e

torture: install ## The same guarantees with full counts (an hour)
	TORTURE=1 $(BIN)/python -m pytest -n 1 --timeout 1200

check: install ## Lint, types, import directions, config
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/gateway check -c config.yaml

fix: install ## Format, and mend what can be mended by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: install ## Write anew what is made from the code: schema, references, the table of metrics
	$(BIN)/gateway schema > config.schema.json
	$(BIN)/gateway schema --markdown > docs/config.md
	$(BIN)/gateway schema --openapi > docs/openapi.json
	$(BIN)/python -m gateway.cli.reference > docs/cli.md
	$(BIN)/python -m gateway.errors_reference > docs/errors.md
	$(BIN)/python -m gateway.observe.reference docs/operations.md

bench: install ## Side by side with nginx, Envoy and a plain proxy
	$(BIN)/python -m benchmarks

bench-compiled: install $(COMPILED)/ready ## The same, with the hot path compiled
	$(BIN)/python -m benchmarks --gateway-command $(abspath $(COMPILED))/bin/gateway

lock: ## Pin every dependency anew, with hashes
	$(BIN)/python -m pip install --quiet pip-tools
	$(BIN)/pip-compile -q --generate-hashes --strip-extras --allow-unsafe --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --output-file requirements/runtime.txt pyproject.toml
	$(BIN)/pip-compile -q --generate-hashes --strip-extras --allow-unsafe --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --extra otel --extra test --extra check --constraint requirements/runtime.txt --output-file requirements/dev.txt pyproject.toml requirements/build.in
	$(BIN)/pip-compile -q --generate-hashes --strip-extras --allow-unsafe --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --extra otel --constraint requirements/dev.txt --output-file requirements/otel.txt pyproject.toml
	echo setuptools | $(BIN)/pip-compile -q --generate-hashes --strip-extras --allow-unsafe --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --constraint requirements/dev.txt --output-file requirements/build.txt -

.PHONY: help install run wheel test test-browser test-compiled torture check fix docs bench bench-compiled lock
