# make demo   separates a bundled mixture: the core only, no torch
# make test   installs everything and runs the whole test suite: 15 minutes on two cores
# make quick  runs a sixth of it, 2 minutes: each test once, without training and live audio
# make check  format, lint, types and tests: what has to pass before a commit
# make check-core PYTHON=python3.13   the quick tests that need no torch, on another Python
# make cross  the native library for ARM, Windows and macOS, in 10 minutes under emulation
# make agents the adapters for voice agents, in an environment with the real frameworks
# make cluster  separation on two Ray nodes of this machine, in an environment with Ray
# make walks  what five kinds of user do, step by step, in 15 minutes; see tests/walks/
# make bench  runs the benchmarks and writes benchmarks/README.md; see benchmarks/run_all.py
# make fix    formats and mends what can be mended by itself
PYTHON ?= python3
BIN := .venv/bin
SOURCES := $(shell find rtmtass models -type f -not -path '*/__pycache__/*' 2>/dev/null)
export PIP_DISABLE_PIP_VERSION_CHECK = 1
# Bytecode that isn't kept is compiled again by each of the processes that the tests start.
unexport PYTHONDONTWRITEBYTECODE
# The slowest files first, as tests/conftest.py orders them.
PARALLEL := --numprocesses=auto --dist=loadfile --no-loadscope-reorder

.PHONY: demo test cross quick check lint kernels check-core core-venv core-tests agents cluster walks bench fix clean
# A checkout that is being worked on has the editable install already.
demo: $(if $(wildcard .venv/dev.done),.venv/dev.done,.venv/core.done)
	$(BIN)/rtmtass demo --output demo

# Tests over a sound server run one at a time: they need their turn at the processor in time.
# They mostly wait, so BESIDE names a target to make meanwhile, of the lowest priority.
test: kernels
	@echo "The whole suite takes about 15 minutes on two cores; a sixth of it, in 2 minutes: make quick"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PARALLEL) -m 'not realtime and not cross'
ifdef BESIDE
	nice -n 19 $(MAKE) $(BESIDE) > beside.log 2>&1 & beside=$$!; \
	$(BIN)/python -m pytest -m realtime; code=$$?; \
	wait $$beside || code=1; cat beside.log; exit $$code
else
	$(BIN)/python -m pytest -m realtime
endif

# Once, before the tests' processes start: each would compile what no other has finished.
kernels: .venv/dev.done
	$(BIN)/python tests/compile_kernels.py

# Needs: apt install libc6-arm64-cross qemu-user wine
cross: .venv/dev.done
	$(BIN)/python -m pytest -m cross tests/test_native_targets.py

quick: kernels
	@echo "A sixth of the suite, 2 minutes on two cores: each test once, without training and live audio"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --quick $(PARALLEL)

check: .venv/dev.done
	$(MAKE) --jobs=2 --output-sync=line lint kernels
	$(MAKE) test

lint: .venv/dev.done
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy --config-file tests/mypy.ini tests

check-core:
	$(MAKE) core-venv
	$(MAKE) core-tests

core-venv:
	rm -rf .venv-core
	$(PYTHON) -m venv .venv-core
	.venv-core/bin/python -m pip install --quiet --editable '.[test]'
	.venv-core/bin/python tests/compile_kernels.py

core-tests:
	OMP_NUM_THREADS=1 .venv-core/bin/python -m pytest --quick $(PARALLEL)

# Two raylets on this machine, one of which is killed; Ray is 200 MB that nothing else needs.
cluster:
	rm -rf .venv-cluster
	$(PYTHON) -m venv .venv-cluster
	.venv-cluster/bin/python -m pip install --quiet --editable '.[test,ray]'
	.venv-cluster/bin/python -m pytest tests/test_cluster.py tests/test_cluster_ray.py

# An environment of its own: pipecat wants older releases of packages that the others use.
agents:
	rm -rf .venv-agents
	$(PYTHON) -m venv .venv-agents
	.venv-agents/bin/python -m pip install --quiet --editable '.[test,livekit,pipecat]' livekit-agents
	.venv-agents/bin/python -m pytest tests/test_agents.py tests/test_agents_livekit.py tests/test_agents_pipecat.py

walks: .venv/dev.done
	@for walk in podcaster streamer researcher maintainer programmer; do \
	  echo "== $$walk"; PYTHON=$(CURDIR)/$(BIN)/python bash tests/walks/$$walk.sh || exit 1; done

bench: .venv/bench.done
	$(BIN)/python -m benchmarks.run_all

fix: .venv/dev.done
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.venv/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "rtmtass needs Python 3.11 or newer; name one:  make demo PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	@touch $@

.venv/core.done: .venv/made pyproject.toml $(SOURCES)
	$(BIN)/python -m pip install --quiet .
	@touch $@

.venv/dev.done: .venv/made pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

.venv/bench.done: .venv/dev.done
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,bench]'
	@touch $@

clean:
	rm -rf .venv .venv-core .venv-agents .venv-cluster beside.log build dist demo
