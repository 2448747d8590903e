"""The tests mirror the packages; `tests/benchmarks/` holds what is measured rather than asserted."""
