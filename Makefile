# From a bare clone: `make demo` and `make test` set everything up by themselves.
PYTHON ?= python3
VENV   ?= .venv
PY     := $(VENV)/bin/python
STAMP  := $(VENV)/.safeloader-installed
FFCV   := $(VENV)/.ffcv-installed

DEMO   := $(VENV)/.demo-installed
DIST   := $(VENV)/.dist-installed
CLIENTS := $(VENV)-clients
RAY    := $(VENV)-ray
PEERS  := $(VENV)-peers
# What somebody who changes one thing wants to know soon, and what `make matrix` runs everywhere.
QUICK  := $(addprefix tests/core/test_,supervisor.py faults.py policy.py bisection.py leases.py layering.py quarantine.py pool.py story.py) \
  $(addprefix tests/api/test_,settings.py values.py errors.py messages.py public_names.py torch_private.py) \
  $(addprefix tests/runtime/test_,channel.py arena.py heartbeat.py \
    faults_in_a_sample.py::test_a_process_that_dies_in_a_sample_costs_no_batch \
    faults_in_a_sample.py::test_a_process_that_is_stopped_in_a_sample_is_told_from_one_that_hangs \
    forkserver.py::test_its_batches_are_torchs_over_several_epochs \
    forkserver.py::test_every_end_of_a_process_is_seen_and_explained \
    portable.py::test_the_portable_ways_survive_the_same_faults)

.PHONY: help quick-list ffcv try-ffcv try-programs demo test test-quick test-all test-clients test-ray matrix dist first-minutes lint house docs bench-hangs bench-ffcv bench-speed bench-peers bench-ranks bench-scaling bench-hosts soak incidents setup clean

help:          ## this list
	@grep -hE '^[a-z-]+: .*##' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 16

demo: $(if $(wildcard $(STAMP)),$(STAMP),$(DEMO)) ## train through killed, stopped and hung workers on real photographs; table and plot
	@$(PY) -m benchmarks.demo $(ARGS)

test: $(STAMP) try-ffcv try-programs ## the tests (without those marked slow or stress); brings FFCV, Chromium and Prometheus where it can
	@$(PY) -m pytest -q -n 3 --dist loadfile $(ARGS)

test-quick: $(STAMP) ## the tests that a change of one thing needs most: the core, the settings, faults, both start methods
	@$(PY) -m pytest -q -n 3 --dist loadfile $(QUICK) $(ARGS)

test-all: $(STAMP) try-ffcv try-programs ## every test, also slow and stress
	@$(PY) -m pytest -q -m "not clients and not ray" $(ARGS)

test-clients: $(CLIENTS)/.installed ## real clients under a kill in mid-epoch, from Ultralytics to mosaicml-streaming (their own environment)
	@$(CLIENTS)/bin/python -m pytest -q -m clients tests/clients $(ARGS)

# On top of the project's own environment. Without what the packages require: some insist on builds for GPUs.
$(CLIENTS)/.installed: $(STAMP) tests/clients/requirements.txt tests/clients/torchvision_on_cpu.py
	@echo "Setting up $(CLIENTS) (once; a minute or two) ..."
	@$(PY) -m venv --clear $(CLIENTS)
	@$(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > $(CLIENTS)/main.pth
	@cp $(CLIENTS)/main.pth tests/clients/torchvision_on_cpu.py "$$($(CLIENTS)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
	@echo "import torchvision_on_cpu" > "$$($(CLIENTS)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/torchvision_on_cpu.pth"
	@$(CLIENTS)/bin/python -m pip install -qq --disable-pip-version-check --no-deps -r tests/clients/requirements.txt
	@touch $@

test-ray: $(RAY)/.installed ## processes on a real Ray cluster of three nodes, all on this machine (its own environment)
	@$(RAY)/bin/python -m pytest -q -m ray tests/remote tests/integration/test_ray.py $(ARGS)

$(RAY)/.installed: $(STAMP) tests/remote/requirements.txt
	@echo "Setting up $(RAY) (once; a minute) ..."
	@$(PY) -m venv --clear $(RAY)
	@$(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$$($(RAY)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/main.pth"
	@$(RAY)/bin/python -m pip install -qq --disable-pip-version-check -r tests/remote/requirements.txt
	@touch $@

matrix: $(STAMP) ## the quick tests on the oldest and the newest torch, and on each Python that is here; says what was not
	@$(PY) -m tools.matrix $(ARGS) -- $(QUICK)

dist: $(DIST)  ## build sdist and wheel into dist/ and check them (URL=https://... makes the links of the README absolute)
	@PROJECT_URL=$(URL) $(PY) -m tools.dist $(ARGS)

first-minutes: $(STAMP) ## what a newcomer does, from a wheel where only torch is, and how long each step takes
	@$(PY) -m tools.first_minutes $(ARGS)

lint: $(STAMP) ## ruff, mypy, the types of public names, and the documentation, without a warning
	@$(PY) -m ruff check .
	@$(PY) -m mypy
	@$(PY) -m tools.public_types
	@$(MAKE) --no-print-directory docs

house: $(STAMP) ## lines, layers, circles of imports, the files a batch and a SIGKILL go through
	@$(PY) -m tools.house $(ARGS)

docs: $(STAMP) ## the documentation, into results/docs; a warning is an error
	@$(PY) -m sphinx -W --keep-going -q -b html -d results/.doctrees docs results/docs
	@echo "results/docs/index.html"

bench-hangs: $(STAMP) ## every way a loader is known to hang, torch against safeloader
	@$(PY) -m benchmarks.hangs $(ARGS)

bench-ffcv: $(FFCV)  ## FFCV bare and wrapped: images a second, starts, changes of size; then its ways to hang
	@$(PY) -W ignore -m benchmarks.ffcv $(ARGS)

bench-speed: $(STAMP) ## throughput, memory, system calls, recovery times, torch against safeloader
	@$(PY) -m benchmarks.speed $(ARGS)

bench-peers: $(PEERS)/.installed ## the loaders and executors that others use beside safeloader: faults, throughput (their own environment)
	@$(PEERS)/bin/python -m benchmarks.peers $(ARGS)

# On top of the project's own environment, as that of the clients.
$(PEERS)/.installed: $(STAMP) benchmarks/peers/requirements.txt
	@echo "Setting up $(PEERS) (once; a minute) ..."
	@$(PY) -m venv --clear $(PEERS)
	@$(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > $(PEERS)/main.pth
	@cp $(PEERS)/main.pth "$$($(PEERS)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
	@$(PEERS)/bin/python -m pip install -qq --disable-pip-version-check --no-deps -r benchmarks/peers/requirements.txt
	@touch $@

bench-ranks: $(STAMP) ## two ranks on torchrun, calm and with a killed worker every 50 batches
	@$(PY) -m benchmarks.ranks $(ARGS)

bench-scaling: $(STAMP) ## what the board and the sampler cost with 10,000 ranks and 10^9 samples
	@$(PY) -m benchmarks.scaling $(ARGS)

bench-hosts: $(STAMP) ## batches a second from a process on another host (root; ARGS=--ray in the environment of test-ray)
	@$(if $(wildcard $(RAY)/.installed),$(RAY)/bin/python,$(PY)) -W ignore -m benchmarks.hosts $(ARGS)

soak: $(STAMP)  ## loaders of all kinds beside each other under random faults, bytes compared with torch (MINUTES=10)
	@$(PY) -m benchmarks.soak $(ARGS)

incidents: $(STAMP) ## the incidents that the project began from, without and with safeloader
	@$(PY) -m benchmarks.incidents $(ARGS)

setup: $(STAMP) ## only set up

quick-list:    # the tests of test-quick and matrix, for the test that they are there
	@echo $(QUICK)

ffcv: $(FFCV)  ## FFCV with its Debian packages (root or sudo) and Python packages

$(FFCV): $(STAMP) tools/install_ffcv.py
	@echo "Setting up FFCV (once; half a minute) ..."
	@$(PY) tools/install_ffcv.py
	@touch $@

# Where FFCV cannot be had, its tests say why and are skipped; with CI=true they fail.
try-ffcv: $(STAMP)
	@$(MAKE) --no-print-directory ffcv || true

# Likewise what only some tests look with.
try-programs: $(STAMP)
	@$(PY) -m tools.programs || true

# The pins matter: without them pip may take a build of torch with several gigabytes of GPU libraries.
$(STAMP): pyproject.toml constraints.txt
	@echo "Setting up $(VENV) (once; a few minutes) ..."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "safeloader needs Python 3.10 or newer")'
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(PY) -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[test,ecosystem,bench,dev,docs]'
	@touch $@
	@echo "Ready."

# The demonstration needs a small part of what the tests need. Of two packages it needs only the photographs in them.
$(DEMO): pyproject.toml constraints.txt
	@echo "Setting up $(VENV) for the demonstration (once; a minute or two) ..."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "safeloader needs Python 3.10 or newer")'
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(PY) -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[demo]'
	@$(PY) -m pip install -qq --disable-pip-version-check -c constraints.txt --no-deps scikit-image scikit-learn
	@touch $@
	@echo "Ready."

$(DIST): $(STAMP)
	@$(PY) -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[dist]'
	@touch $@

clean:         ## remove the environment, caches and results
	rm -rf $(VENV) $(CLIENTS) $(RAY) $(PEERS) build dist *.egg-info results .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
