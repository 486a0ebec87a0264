# What people and CI call. Every target does its own set-up: Python, its venv module and make are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SOAK_SECONDS ?= 600

.PHONY: demo test check bench bench-peers bench-exec bench-simulate bench-scaling bench-cluster bench-many soak format clean

demo: $(READY)
	$(BIN)/batchmill demo

test: $(READY)
	$(BIN)/python -m pytest -n 3

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

bench-many: $(READY)
	$(BIN)/python bench/many_items.py

soak: $(READY)
	$(BIN)/python bench/soak.py --seconds $(SOAK_SECONDS)

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist
