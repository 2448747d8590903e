"""Benchmarks that compare alternatives in alternation; each is a command, `python -m tests.benchmarks.NAME`."""
