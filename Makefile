# What people and CI call. Every target does its own set-up: Python, its venv module and make are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO := .venv-demo
SOAK_SECONDS ?= 600

# For `test` and `test-pythons`: processes of pytest; files and other words for it, all tests where it is empty.
PROCESSES ?= 3
TESTS ?=
PYTEST_OPTIONS ?=
# For `test-cli` and its like: which files each of them has.
TESTS_unit := tests/unit
TESTS_cli := tests/cli
TESTS_faults := tests/faults
TESTS_cluster := tests/cluster
# For `test-pythons`: versions such as "3.12 3.14", all that pyproject.toml names where it is empty; a random order
# ("any", or the number of an earlier one); busy loops beside the tests; minutes for a version; other options.
PYTHONS ?=
SEED ?=
BUSY ?= 0
MINUTES ?= 60
PYTHONS_OPTIONS ?=

.PHONY: demo test test-whole test-unit test-cli test-faults test-cluster test-pythons check bench bench-peers bench-exec bench-simulate bench-scaling bench-cluster bench-feeding bench-batches bench-parquet bench-many bench-shared soak fuzz format clean

demo: $(DEMO)/.ready
	$(DEMO)/bin/batchmill demo

# Tests start some thousand processes: each would compile all modules again where nothing had written them down.
PYTEST = $(BIN)/python -m compileall -q engine cli && \
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest -n $(PROCESSES) $(PYTEST_OPTIONS)

test: $(READY)
	$(PYTEST) $(TESTS)

# All cases of the tests of which `test` runs a sample.
test-whole: $(READY)
	$(PYTEST) -o whole=true $(TESTS)

test-unit test-cli test-faults test-cluster: test-%: $(READY)
	$(PYTEST) $(TESTS_$*)

test-pythons:
	$(PYTHON) tests/kits/pythons.py --versions "$(PYTHONS)" --tests '$(TESTS)' --seed "$(SEED)" --busy $(BUSY) \
		--processes $(PROCESSES) --minutes $(MINUTES) $(PYTHONS_OPTIONS)

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python bench/main_job.py
	$(BIN)/python bench/kill_resume.py
	$(BIN)/python -m pytest -c bench/micro/pytest.ini bench/micro

bench-peers: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	$(BIN)/python bench/peers.py

bench-exec: $(READY)
	$(BIN)/python bench/exec.py

bench-simulate: $(READY)
	$(BIN)/python bench/simulate.py

bench-scaling: $(READY)
	$(BIN)/python bench/scaling_law.py

bench-cluster: $(READY)
	$(BIN)/python bench/cluster.py

bench-feeding: $(READY)
	$(BIN)/python bench/feeding.py

bench-batches: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	$(BIN)/python bench/batch_calls.py

bench-parquet: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	$(BIN)/python bench/parquet.py

bench-many: $(READY)
	$(BIN)/python bench/many_items.py

bench-shared: $(READY)
	$(BIN)/python bench/shared_data.py

soak: $(READY)
	$(BIN)/python bench/soak.py --seconds $(SOAK_SECONDS)

fuzz: $(READY)
	$(BIN)/python bench/fuzz.py --target checkpoints --seconds $(SOAK_SECONDS)
	$(BIN)/python bench/fuzz.py --target inputs --seconds $(SOAK_SECONDS)
	$(BIN)/python bench/fuzz.py --target shell --seconds $(SOAK_SECONDS)

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

# The product alone, as people install it.
$(DEMO)/.ready: pyproject.toml
	$(PYTHON) -m venv $(DEMO)
	$(DEMO)/bin/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

clean:
	rm -rf $(VENV) $(DEMO) .venvs build dist
