# Two commands for a newcomer: `make demo` watches the simulated arm plan; `make test` checks everything.
# Both set the machine up first (see bootstrap.sh).

export OMP_NUM_THREADS ?= 2
BIN := .venv/bin

.PHONY: demo test test-slow lint clean

demo:
	./bootstrap.sh all
	$(BIN)/run_task pick_wipe --goal configs/goals/pick_wipe.png --seed 0

lint:
	./bootstrap.sh dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "not slow" -n 2 --dist worksteal

test-slow: lint
	$(BIN)/pytest -m slow

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache
