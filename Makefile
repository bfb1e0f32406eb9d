# The development tasks; `make` lists them.
.DEFAULT_GOAL := help
.PHONY: help run test test-fast check molecule test-distributions test-installation collection release sanity integration changelog lab demo bench bench-tables dashboards role-tables pins setup setup-dev setup-hosts setup-roles setup-lab clean
BIN := .venv/bin

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 20

run: setup ## make this machine a hypervisor and serve the API at http://localhost:3000
	@$(BIN)/virtplay up

test: setup-lab ## run all tests (needs root: the lab is made of network namespaces)
	@scripts/test

test-fast: setup-dev ## run the tests that need no lab, in under a minute
	@$(BIN)/pytest -q -n 3 --dist loadgroup tests/unit tests/api warm/tests -m "not postgres and not slow and not needs"

check: setup-dev ## lint and type-check everything
	@scripts/check

molecule: setup-roles ## test every role with Molecule on hosts of the lab, as root; see docs/molecule.md
	@scripts/molecule

test-distributions: setup-lab ## run what hosts of Debian 12, 13 and forky have in common; write the table of docs/distributions.md
	@$(BIN)/python -m tests.distributions

test-installation: setup-lab ## install, upgrade and roll back the service on a systemd of its own; run from a fresh clone
	@$(BIN)/pytest -q tests/installation

collection: setup-dev ## build the collection, with the roles and playbooks in it, into build/
	@$(BIN)/python -m scripts.collection build

release: setup-dev ## build the wheel, the collection and the changelog into dist/
	@$(BIN)/python -m scripts.release

sanity: setup-dev ## run ansible-test sanity on the collection
	@$(BIN)/python -m scripts.collection sanity

integration: setup-lab ## run the collection's integration targets on a hypervisor in a namespace
	@$(BIN)/python -m scripts.collection integration

changelog: setup-dev ## move the fragments into CHANGELOG.md and the collection's, for a release
	@$(BIN)/python -m scripts.changelog
	@$(BIN)/python -m scripts.collection changelog release

lab: setup-hosts ## bring up real hypervisors in namespaces, until Ctrl-C; RELEASE=trixie,forky: of those releases
	@$(BIN)/python -m lab up $(if $(RELEASE),--release $(RELEASE))

demo: setup-hosts ## run the service on a lab at http://localhost:3000, until Ctrl-C
	@$(BIN)/python -m scripts.demo

bench: setup-lab ## run the benchmarks (an hour); write benchmarks/results.json, build/bench.json and docs/performance.md
	@$(BIN)/python -m benchmarks

bench-tables: setup-dev ## write tables and plots of docs/performance.md from benchmarks/results.json
	@$(BIN)/python -m benchmarks.tables

dashboards: setup-dev ## write grafana/dashboards from scripts/dashboards.py
	@$(BIN)/python -m scripts.dashboards

role-tables: setup-dev ## write the variable tables of the roles' READMEs from their argument_specs
	@$(BIN)/python -m scripts.role_tables

pins: PIN := UV_CUSTOM_COMPILE_COMMAND="make pins" $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-annotate
pins: setup-dev ## write constraints.txt: the newest version of each Python package, for every Python; requirements.txt: those of the service
	@$(BIN)/python -m pip install -q --disable-pip-version-check uv
	@$(PIN) --upgrade --extra dev --output-file constraints.txt pyproject.toml
	@$(PIN) --constraints constraints.txt --output-file requirements.txt pyproject.toml

setup: ## install the dependencies of the service, without starting it
	@scripts/setup base

setup-dev: ## install the dependencies of the checks and the fast tests
	@scripts/setup base dev

setup-hosts: ## install the dependencies of the lab and the demo
	@scripts/setup base lab

setup-roles: ## install the dependencies of the Molecule scenarios
	@scripts/setup base dev lab

setup-lab: ## install the dependencies of all tests
	@scripts/setup base dev lab test

clean: ## remove the virtual environment and build results; keep var/, the service's data
	@rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache service/*.egg-info warm/src/*.egg-info service/web/node_modules
