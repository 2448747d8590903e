"""Runs every block of the README and of the documentation: `python -m tests.documentation`."""
