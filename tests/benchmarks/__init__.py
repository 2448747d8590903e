"""Measurements of two sides of one question, in turns; each is a command, `python -m tests.benchmarks.NAME`."""
