# Two commands for a newcomer: `make demo` runs a task in simulation; `make test` runs the checks and tests.
# Each target sets the machine up first (see bootstrap.sh). TORCH_INDEX=URL takes torch from that package index.

export OMP_NUM_THREADS ?= 2
BIN := .venv/bin

.PHONY: demo test test-slow lint docs docs-run wheel ros clean

demo:
	./bootstrap.sh all
	$(BIN)/run_task pick_wipe --goal demo:pick_wipe --seed 0

lint:
	./bootstrap.sh dev
	$(BIN)/python -m tests.stages lint

# The site in site/, with search; fails on a dead link or a missing docstring reference.
docs:
	./bootstrap.sh dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# Every block of the README and of docs/, in the order in which they stand, in a copy of the clone; 23 minutes on two busy cores.
docs-run:
	./bootstrap.sh dev
	$(BIN)/python -m tests.documentation

# dist/ghvae_foresight-VERSION-py3-none-any.whl
wheel:
	./bootstrap.sh dev
	$(BIN)/pip wheel -q --no-deps --no-build-isolation --wheel-dir dist .

ros:
	./bootstrap.sh ros

# Runs every stage, then fails if one failed: tests/stages.py lists them.
test:
	./bootstrap.sh dev
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.stages test

test-slow:
	./bootstrap.sh dev
	$(BIN)/python -m tests.stages slow

clean:
	rm -rf .venv build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache
