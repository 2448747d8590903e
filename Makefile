# Two commands for a newcomer: `make demo` runs a task in simulation; `make test` runs the checks and tests.
# Each target sets the machine up first (see bootstrap.sh).

export OMP_NUM_THREADS ?= 2
BIN := .venv/bin
PARALLEL := -n 4 --dist worksteal --durations=15

.PHONY: demo test test-slow lint docs docs-run wheel ros clean

demo:
	./bootstrap.sh all
	$(BIN)/run_task pick_wipe --goal demo:pick_wipe --seed 0

lint:
	./bootstrap.sh dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site in site/, with search; fails on a dead link or a missing docstring reference.
docs:
	./bootstrap.sh dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# Every block of the README and of docs/, in the order in which they stand, in a copy of the clone; about ten minutes.
docs-run:
	./bootstrap.sh dev
	$(BIN)/python -m tests.documentation

# dist/ghvae_foresight-VERSION-py3-none-any.whl
wheel:
	./bootstrap.sh dev
	$(BIN)/pip wheel -q --no-deps --no-build-isolation --wheel-dir dist .

ros:
	./bootstrap.sh ros

# Half of the time of a test goes by while it waits for other processes, so there are more tests at a time than cores.
# The tests of ROS keep real time, each process with a master and a driver of its own. Those of libfranka share one arm.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "not slow and not ros and not libfranka" $(PARALLEL)
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "ros and not slow" $(PARALLEL) tests/robot_bridge/ros || [ $$? = 5 ]  # 5: without ROS
	OMP_NUM_THREADS=1 $(BIN)/pytest -m libfranka tests/robot_bridge/libfranka

test-slow: lint
	$(BIN)/pytest -m slow

clean:
	rm -rf .venv build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache
